"""`paddlemix pretrain`: train the projector on images and captions (stage 1)."""

from __future__ import annotations

import argparse

from .options import add_training_settings
from .parser import SHAPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: all of its words are settings."""
    add_training_settings(parser, SHAPES, "paddlemix pretrain paddlemix/examples/llava/tiny/example_pretrain.json")


def run(arguments: argparse.Namespace) -> int:
    """Train, or with --dry-run only check."""
    from .train import main

    return main(arguments.settings, script="paddlemix pretrain", template="plain")
