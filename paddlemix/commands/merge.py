"""`paddlemix merge`: a LoRA adapter and its base model to one model that needs neither."""

from __future__ import annotations

import argparse
import shlex

from ..terminal.next_steps import end_of_command, near, this_command
from .options import DTYPES
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: the options of PaddleMIX's script, and a few more."""
    parser.add_argument(
        "--model_name_or_path", "--model-path", default=None, help="base model (default: the one the adapter names)"
    )
    parser.add_argument("--lora_path", default=None, help="folder with lora_config.json (required)")
    parser.add_argument(
        "--merge_model_path", "--output", "--save-model-path", help="folder to write (default: LORA_PATH_merged)"
    )
    parser.add_argument(
        "--model-base", default=None, help="base model, as LLaVA's script calls it: --model-path is then the adapter"
    )
    parser.add_argument("--device", default=None, help="device to merge on (default: the best)")
    parser.add_argument(
        "--base-quantization",
        choices=("none", "int8", "nf4"),
        default=None,
        help="what the base is rounded to first (default: what the adapter was trained over, by its lora_config.json)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="dtype to write (default: the base's)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that has other contents")
    add_examples(parser, "paddlemix merge --lora_path work_dirs/example_lora --merge_model_path work_dirs/merged")


def run(arguments: argparse.Namespace) -> int:
    """Merge and write the model, and print where it is and what comes next."""
    from ..checkpoints.merge import merge
    from ..checkpoints.source import AS_RECORDED
    from ..hub.resolve import resolve

    adapter, base = _named(arguments)
    chosen = arguments.base_quantization
    kind = AS_RECORDED if chosen is None else None if chosen == "none" else chosen
    output = arguments.merge_model_path or adapter.rstrip("/") + "_merged"
    source = merge(
        resolve(adapter),
        output,
        base=None if base is None else resolve(base),
        device=arguments.device,
        base_quantization=kind,
        dtype=arguments.dtype,
        is_overwriting=arguments.overwrite,
    )
    rounded = f", its weights rounded to {source.rounding} first" if source.rounding else ""
    rows = [
        ("base", f"{near(str(source.base.path))} (unchanged{rounded})"),
        ("adapter", near(str(source.path))),
        ("merged", f"{output} (a whole model in {source.dtype}, which needs neither of them)"),
    ]
    print(end_of_command(rows, _next_commands(output)), flush=True)
    return 0


def _named(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """Return the adapter and the base, by our names or by those of LLaVA's script."""
    adapter, base = arguments.lora_path, arguments.model_name_or_path
    if arguments.model_base is not None:
        if adapter is not None:
            raise ValueError("--model-base goes with --model-path for the adapter: with --lora_path, leave it out")
        adapter, base = base, arguments.model_base
    if adapter is None:
        raise ValueError("--lora_path is missing: name the adapter's folder, the one with lora_config.json")
    return adapter, base


def _next_commands(output: str) -> list[tuple[str, str]]:
    """Return what can be done with the merged model: a word, and the command as it can be pasted into a shell."""
    command, merged = this_command(), shlex.quote(output)
    return [
        ("chat", f"{command} chat --model-path {merged}"),
        ("evaluate", f"{command} eval list"),
        ("convert", f"{command} convert {merged} {shlex.quote(output.rstrip('/') + '_paddlemix')} --to paddlemix"),
    ]
