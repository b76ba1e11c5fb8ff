"""`paddlemix extract-projector`: write the projector of a model to a file."""

from __future__ import annotations

import argparse

from ..terminal.visible import visible
from .options import add_hub_options, resolve_models
from .parser import MODEL, add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a checkpoint folder in any layout, or the name of a model"
    )
    parser.add_argument(
        "--model-path", "--model_name_or_path", metavar="MODEL", help="the same, by its name in LLaVA's script"
    )
    parser.add_argument("--model-base", metavar="MODEL", help="base model of MODEL if MODEL is an adapter")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="file to write: .bin or .safetensors with LLaVA's tensor names, .pdparams with PaddleMIX's",
    )
    add_hub_options(parser)
    add_examples(parser, f"paddlemix extract-projector {MODEL} --output work_dirs/mm_projector.bin")


def run(arguments: argparse.Namespace) -> int:
    """Write the projector and print the names of its tensors."""
    from ..checkpoints.projector_file import extract_projector

    model = arguments.model or arguments.model_path
    if model is None or (arguments.model and arguments.model_path):
        raise ValueError("name one model: paddlemix extract-projector MODEL --output mm_projector.bin")
    (path,) = resolve_models(arguments, model)
    names = extract_projector(path, arguments.output, base=arguments.model_base)
    print(visible(f"{arguments.output}: {', '.join(names)}"))
    return 0
