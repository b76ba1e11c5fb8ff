"""`paddlemix apply-delta`: add delta weights, published as a difference, to their base model."""

from __future__ import annotations

import argparse

from ..terminal.visible import visible
from .options import add_delta_options, output_options, resolve_models
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_delta_options(parser, delta="the delta weights", target="folder to write")
    add_examples(parser, "paddlemix apply-delta --base llama-7b --delta liuhaotian/LLaVA-7b-delta-v0 --target llava-7b")


def run(arguments: argparse.Namespace) -> int:
    """Add the base to the delta."""
    from ..checkpoints.delta import apply_delta

    base, delta = resolve_models(arguments, arguments.base, arguments.delta)
    apply_delta(base, delta, arguments.target, **output_options(arguments, "apply-delta"))
    print(visible(f"added {delta} to {base}: {arguments.target}"))
    return 0
