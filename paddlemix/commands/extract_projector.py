"""`paddlemix extract-projector`: the projector of a model as a file of its own."""

from __future__ import annotations

import argparse

from ..terminal.visible import visible
from .options import add_hub_options


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a checkpoint folder in any layout, or the name of a model"
    )
    parser.add_argument(
        "--model-path", "--model_name_or_path", metavar="MODEL", help="the same, as LLaVA's script has it"
    )
    parser.add_argument("--model-base", metavar="MODEL", help="what MODEL was trained on, where it is an adapter")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="file to write: .bin or .safetensors with LLaVA's names, .pdparams with PaddleMIX's",
    )
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the projector and print the names of its tensors."""
    from ..checkpoints.projector_file import extract_projector
    from ..hub.hub import resolve

    model = arguments.model or arguments.model_path
    if model is None or (arguments.model and arguments.model_path):
        raise ValueError("name one model: paddlemix extract-projector MODEL --output mm_projector.bin")
    path = resolve(model, hub=arguments.hub, revision=arguments.revision)
    names = extract_projector(path, arguments.output, base=arguments.model_base)
    print(visible(f"{arguments.output}: {', '.join(names)}"))
    return 0
