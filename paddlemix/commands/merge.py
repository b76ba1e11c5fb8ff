"""`paddlemix merge`: a LoRA adapter and its base model to one model that needs neither."""

from __future__ import annotations

import argparse
import shlex

from ..terminal.next_steps import end_of_command, near, this_command
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: the options of PaddleMIX's script, and a few more."""
    parser.add_argument(
        "--model_name_or_path", "--model-path", default=None, help="base model (default: the one the adapter names)"
    )
    parser.add_argument("--lora_path", required=True, help="folder with lora_config.json")
    parser.add_argument("--merge_model_path", "--output", help="folder to write (default: LORA_PATH_merged)")
    parser.add_argument("--device", default=None, help="device to merge on (default: the best)")
    parser.add_argument(
        "--base-quantization",
        choices=("none", "int8", "nf4"),
        default=None,
        help="what the base is rounded to first (default: what the adapter was trained over, by its lora_config.json)",
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that has other contents")
    add_examples(parser, "paddlemix merge --lora_path work_dirs/example_lora --merge_model_path work_dirs/merged")


def run(arguments: argparse.Namespace) -> int:
    """Merge and write the model, and print where it is and what comes next."""
    from ..checkpoints.merge import merge
    from ..checkpoints.source import AS_RECORDED
    from ..hub.resolve import resolve

    base = None if arguments.model_name_or_path is None else resolve(arguments.model_name_or_path)
    chosen = arguments.base_quantization
    kind = AS_RECORDED if chosen is None else None if chosen == "none" else chosen
    output = arguments.merge_model_path or arguments.lora_path.rstrip("/") + "_merged"
    source = merge(
        resolve(arguments.lora_path),
        output,
        base=base,
        device=arguments.device,
        base_quantization=kind,
        is_overwriting=arguments.overwrite,
    )
    rounded = f", its weights rounded to {source.rounding} first" if source.rounding else ""
    rows = [
        ("base", f"{near(str(source.base.path))} (unchanged{rounded})"),
        ("adapter", near(str(source.path))),
        ("merged", f"{output} (a whole model, which needs neither of them)"),
    ]
    print(end_of_command(rows, _next_commands(output)), flush=True)
    return 0


def _next_commands(output: str) -> list[tuple[str, str]]:
    """Return what can be done with the merged model: a word, and the command as it can be pasted into a shell."""
    command, merged = this_command(), shlex.quote(output)
    return [
        ("chat", f"{command} chat --model-path {merged}"),
        ("evaluate", f"{command} eval list"),
        ("convert", f"{command} convert {merged} {shlex.quote(output.rstrip('/') + '_paddlemix')} --to paddlemix"),
    ]
