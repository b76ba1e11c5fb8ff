"""The options of loading a model, and what they say."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import add_template_option

if TYPE_CHECKING:
    from ..checkpoints.card_processes import Loading


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that answers with a model, besides those of `add_model_options`."""
    add_template_option(parser, "--conv-mode", "the checkpoint's own")
    parser.add_argument("--fp16", action="store_true", help="the same as --dtype float16")
    add_quantization_options(parser)


def add_quantization_options(parser: argparse.ArgumentParser) -> None:
    """Add --load-8bit and --load-4bit, which training's settings call load_in_8bit and load_in_4bit."""
    for bits, memory in ((8, "less"), (4, "least")):
        names = (f"--load-{bits}bit", f"--load-in-{bits}bit")
        text = f"keep the decoder's weights in {bits} bits: {memory} memory"
        parser.add_argument(*names, action="store_true", help=text)


def quantization_of(arguments: argparse.Namespace) -> str | None:
    """Return the kind of quantization that the options select. Raises ValueError for both."""
    from ..ops.quantize import choose_kind

    if arguments.load_8bit and arguments.load_4bit:
        raise ValueError("weights can be stored in 8 bits or in 4, not both: give one of --load-8bit and --load-4bit")
    return choose_kind(arguments.load_8bit, arguments.load_4bit)


def loading_of(arguments: argparse.Namespace) -> Loading:
    """Return what the options say about loading a model. Raises ValueError for both 8 and 4 bits."""
    from ..checkpoints.card_processes import Loading

    return Loading(
        base=arguments.model_base,
        template=arguments.conv_mode,
        dtype="float16" if arguments.fp16 else arguments.dtype,
        device=arguments.device,
        quantization=quantization_of(arguments),
    )
