"""What `apply-delta` and `make-delta` share: their options, and the folders behind the names that are given."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints.hub_options import add_hub_options


def add_delta_options(parser: argparse.ArgumentParser, *, delta: str, target: str) -> argparse.ArgumentParser:
    """Add the options; delta, target: the help of the two folders, of which one is read and one is written."""
    folders = (("base", "the base, a LLaMA folder"), ("delta", delta), ("target", target))
    for name, text in folders:
        other = "--delta-path" if name == "delta" else f"--{name}-model-path"
        parser.add_argument(f"--{name}", other, required=True, metavar="DIR", help=text)
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weight file (default: 5GB)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something else")
    add_hub_options(parser)
    return parser


def resolved(arguments: argparse.Namespace, *names: str) -> list[Path]:
    """Return the folders of what is read, downloaded where they are not here."""
    from ..checkpoints.hub import resolve

    return [resolve(name, hub=arguments.hub, revision=arguments.revision) for name in names]
