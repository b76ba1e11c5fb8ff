"""`paddlemix sft`: fine-tune on conversations, the whole model or with LoRA (stage 2)."""

from __future__ import annotations

import argparse

from .options import add_training_settings
from .parser import MODEL, SHAPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: all of its words are settings."""
    start = f"--model_name_or_path {MODEL}"
    add_training_settings(parser, SHAPES, f"paddlemix sft paddlemix/examples/llava/tiny/example_lora.json {start}")


def run(arguments: argparse.Namespace) -> int:
    """Train, or with --dry-run only check."""
    from .train import main

    return main(arguments.settings, script="paddlemix sft", template=None)
