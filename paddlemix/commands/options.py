"""The options that say where models come from. Apart from the hubs themselves, so that `--help` loads nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add --hub and --revision to a command that takes the name of a model."""
    parser.add_argument(
        "--hub",
        default=None,
        metavar="HUB",
        help="where a model that is not on this machine comes from: auto, paddle, hf, modelscope or the address of a "
        "web folder that holds NAME/config.json (default: $PADDLEMIX_HUB, else auto = one after the other)",
    )
    parser.add_argument("--revision", default=None, help="branch, tag or commit of the model on its hub")


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
    from ..hub.hub import resolve

    return [resolve(name, hub=arguments.hub, revision=arguments.revision) for name in names]
