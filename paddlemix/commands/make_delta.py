"""`paddlemix make-delta`: the difference of a model to its base, for publishing."""

from __future__ import annotations

import argparse
import sys

from ..terminal.visible import visible
from .options import add_delta_options, resolved


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options."""
    return add_delta_options(parser, delta="folder to write", target="the model")


def run(arguments: argparse.Namespace) -> int:
    """Take the base off the model."""
    from ..checkpoints.delta import make_delta

    base, target = resolved(arguments, arguments.base, arguments.target)
    title = "make-delta" if sys.stderr.isatty() else None
    make_delta(
        base,
        target,
        arguments.delta,
        max_shard_size=arguments.max_shard_size,
        title=title,
        is_overwriting=arguments.overwrite,
    )
    print(visible(f"took {base} off {target}: {arguments.delta}"))
    return 0
