"""The options that say where models come from. Apart from the hubs themselves, so that `--help` loads nothing."""

from __future__ import annotations

import argparse


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
