"""`paddlemix merge`: a LoRA adapter and its base model to one model that needs neither."""

from __future__ import annotations

import argparse

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
    """Merge and write the model."""
    from ..checkpoints.merge import merge
    from ..checkpoints.source import AS_RECORDED
    from ..hub.resolve import resolve

    base = None if arguments.model_name_or_path is None else resolve(arguments.model_name_or_path)
    chosen = arguments.base_quantization
    kind = AS_RECORDED if chosen is None else None if chosen == "none" else chosen
    merge(
        resolve(arguments.lora_path),
        arguments.merge_model_path or arguments.lora_path.rstrip("/") + "_merged",
        base=base,
        device=arguments.device,
        base_quantization=kind,
        is_overwriting=arguments.overwrite,
    )
    return 0
