"""`paddlemix make-delta`: subtract a base model from a model, to publish the difference."""

from __future__ import annotations

import argparse
import sys

from ..terminal.visible import visible
from .options import add_delta_options, resolve_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_delta_options(parser, delta="folder to write", target="the model")


def run(arguments: argparse.Namespace) -> int:
    """Subtract the base from the model."""
    from ..checkpoints.delta import make_delta

    base, target = resolve_models(arguments, arguments.base, arguments.target)
    title = "make-delta" if sys.stderr.isatty() else None
    make_delta(
        base,
        target,
        arguments.delta,
        max_shard_size=arguments.max_shard_size,
        title=title,
        is_overwriting=arguments.overwrite,
    )
    print(visible(f"subtracted {base} from {target}: {arguments.delta}"))
    return 0
