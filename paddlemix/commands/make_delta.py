"""`paddlemix make-delta`: subtract a base model from a model, to publish the difference."""

from __future__ import annotations

import argparse

from ..terminal.visible import visible
from .options import add_delta_options, output_options, resolve_models
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_delta_options(parser, delta="folder to write", target="the model")
    add_examples(parser, "paddlemix make-delta --base llama-7b --target llava-7b --delta llava-7b-delta")


def run(arguments: argparse.Namespace) -> int:
    """Subtract the base from the model."""
    from ..checkpoints.delta import make_delta

    base, target = resolve_models(arguments, arguments.base, arguments.target)
    make_delta(base, target, arguments.delta, **output_options(arguments, "make-delta"))
    print(visible(f"subtracted {base} from {target}: {arguments.delta}"))
    return 0
