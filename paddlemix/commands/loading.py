"""Load a model as the command line names it, with its processor."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checkpoints.source import Source


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that answers with a model, besides those of `add_model_options`."""
    parser.add_argument("--conv-mode", default=None, help="chat template (default: the checkpoint's own)")
    parser.add_argument("--fp16", action="store_true", help="the same as --dtype float16")
    parser.add_argument("--load-8bit", action="store_true", help="keep the decoder's weights in 8 bits: less memory")
    parser.add_argument("--load-4bit", action="store_true", help="keep the decoder's weights in 4 bits: least memory")


def load_with_processor(arguments: argparse.Namespace, source: Source):
    """Return the model of an open checkpoint and its processor, with a notice if parts of the model are untrained."""
    from ..checkpoints.load import load_model
    from ..checkpoints.processor import LlavaProcessor
    from ..ops.quantize import choose_kind
    from ..ops.row_products import report_missing
    from ..terminal.log import notice

    quantization = choose_kind(arguments.load_8bit, arguments.load_4bit)
    processor = LlavaProcessor.from_source(source)
    if arguments.conv_mode:  # first, so that a wrong name is an error before the model is loaded
        processor = processor.with_template(arguments.conv_mode)
    dtype = "float16" if arguments.fp16 else arguments.dtype
    model = load_model(source, dtype=dtype, device=arguments.device, quantization=quantization)
    if quantization:
        report_missing()  # not in the middle of the first answer
    if model.config.untrained:
        parts = " and ".join(model.config.untrained)
        notice(f"{parts} of this model have random values: answers about images are meaningless before `pretrain`")
    return model, processor
