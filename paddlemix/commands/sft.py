"""`paddlemix sft`: fine-tune on conversations, the whole model or with LoRA (stage 2)."""

from __future__ import annotations

import argparse

from .options import add_training_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: all of its words are settings."""
    add_training_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, or with --dry-run only check."""
    from .train import main

    return main(arguments.settings, script="paddlemix sft", template=None)
