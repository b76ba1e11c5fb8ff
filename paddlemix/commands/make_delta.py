"""`paddlemix make-delta`: the difference of a model to its base, for publishing."""

from __future__ import annotations

import argparse
import sys

from ..checkpoints.hub_options import add_hub_options


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser.add_argument("--base", "--base-model-path", required=True, metavar="DIR", help="the base, a LLaMA folder")
    parser.add_argument("--target", "--target-model-path", required=True, metavar="DIR", help="the model")
    parser.add_argument("--delta", "--delta-path", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weight file (default: 5GB)")
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Take the base off the model."""
    from ..checkpoints.delta import make_delta
    from ..checkpoints.hub import resolve

    base, target = (
        resolve(name, hub=arguments.hub, revision=arguments.revision) for name in (arguments.base, arguments.target)
    )
    title = "make-delta" if sys.stderr.isatty() else None
    make_delta(base, target, arguments.delta, max_shard_size=arguments.max_shard_size, title=title)
    print(f"took {base} off {target}: {arguments.delta}")
    return 0
