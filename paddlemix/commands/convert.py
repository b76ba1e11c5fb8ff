"""`paddlemix convert`: convert a checkpoint from any layout to any other."""

from __future__ import annotations

import argparse
import sys

from ..terminal.visible import visible
from .options import DTYPES, add_hub_options, add_output_options, resolve_models
from .parser import MODEL, add_examples

LAYOUTS = ("paddle", "paddlemix", "hf", "official", "xtuner", "peft")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("source", metavar="SRC", help="a checkpoint folder in any layout, or the name of a model")
    parser.add_argument("destination", metavar="DST", help="folder to write")
    parser.add_argument(
        "--to",
        required=True,
        choices=LAYOUTS,
        help="layout to write; peft: from a LoRA folder, an adapter for its base in layout hf",
    )
    parser.add_argument(
        "--model-base", default=None, metavar="BASE", help="base model of SRC if SRC is an adapter or a projector"
    )
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="dtype to write (default: as stored)")
    parser.add_argument(
        "--verify",
        action="append",
        nargs="?",
        const="tensors",
        choices=("tensors", "logits"),
        default=[],
        help="compare every tensor of the result with the source; `--verify logits` also compares the logits of a "
        "prompt with an image (which needs memory for the model in float32; not for --to peft)",
    )
    add_output_options(parser)
    parser.add_argument("--list", action="store_true", help="print the name of every tensor and how it was converted")
    add_hub_options(parser)
    add_examples(parser, f"paddlemix convert {MODEL} work_dirs/tiny_hf --to hf --verify")


def run(arguments: argparse.Namespace) -> int:
    """Convert and print the report."""
    from ..checkpoints.convert import convert
    from ..checkpoints.verify import compare_logits, compare_tensors

    if arguments.to == "peft":
        return _run_peft(arguments)
    checks = [compare_tensors] if arguments.verify else []
    checks += [compare_logits] if "logits" in arguments.verify else []
    report = convert(
        *resolve_models(arguments, arguments.source),
        arguments.destination,
        arguments.to,
        base=arguments.model_base,
        dtype=arguments.dtype,
        max_shard_size=arguments.max_shard_size,
        checks=checks,
        has_progress=sys.stderr.isatty(),
        is_overwriting=arguments.overwrite,
    )
    print(visible(report.text(with_names=arguments.list)))
    return 0


def _run_peft(arguments: argparse.Namespace) -> int:
    """Write an adapter and print the report."""
    from ..checkpoints.peft_writer import write_adapter

    if "logits" in arguments.verify:
        raise ValueError("--verify logits is not for --to peft: --verify compares every tensor of the merged models")
    report = write_adapter(
        *resolve_models(arguments, arguments.source),
        arguments.destination,
        base=arguments.model_base,
        dtype=arguments.dtype,
        is_verified=bool(arguments.verify),
        has_progress=sys.stderr.isatty(),
        is_overwriting=arguments.overwrite,
    )
    print(visible(report.text(with_names=arguments.list)))
    return 0
