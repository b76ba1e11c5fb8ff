"""`paddlemix apply-delta`: weights published as a difference, made whole with their base."""

from __future__ import annotations

import argparse
import sys

from ..checkpoints.hub_options import add_hub_options


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser.add_argument("--base", "--base-model-path", required=True, metavar="DIR", help="the base, a LLaMA folder")
    parser.add_argument("--delta", "--delta-path", required=True, metavar="DIR", help="the published difference")
    parser.add_argument("--target", "--target-model-path", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weight file (default: 5GB)")
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Add the base to the delta."""
    from ..checkpoints.delta import apply_delta
    from ..checkpoints.hub import resolve

    base, delta = (
        resolve(name, hub=arguments.hub, revision=arguments.revision) for name in (arguments.base, arguments.delta)
    )
    title = "apply-delta" if sys.stderr.isatty() else None
    apply_delta(base, delta, arguments.target, max_shard_size=arguments.max_shard_size, title=title)
    print(f"added {delta} to {base}: {arguments.target}")
    return 0
