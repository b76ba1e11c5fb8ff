"""The options of the chat. Apart from the chat itself, so that `--help` loads nothing."""

from __future__ import annotations

import argparse

from .options import add_hub_options


def add_arguments(parser: argparse.ArgumentParser, *, default_model: str) -> None:
    """Add the options of the chat to a parser; PaddleMIX's come first, and LLaVA's --model-base."""
    parser.add_argument(
        "--model-path", default=default_model, help="model folder, or its name on a hub (default: the tiny model)"
    )
    parser.add_argument("--model-base", default=None, help="model that the LoRA or projector in --model-path is for")
    parser.add_argument("--image-file", action="append", default=[], help="picture, file or URL; may be repeated")
    # PaddleMIX's README spells it so.
    parser.add_argument("--image-flie", dest="image_file", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--conv-mode", default=None, help="template instead of the checkpoint's own")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 takes the likeliest token (default 0.2)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="most tokens of an answer (default 512)")
    parser.add_argument("--fp16", action="store_true", help="the same as --dtype float16")
    parser.add_argument("--debug", action="store_true", help="print prompt and output of each turn")
    parser.add_argument("--device", default=None, help="gpu, npu or cpu, also with :N (default: the best there is)")
    parser.add_argument("--dtype", default=None, choices=("float32", "float16", "bfloat16"), help="default: as stored")
    parser.add_argument("--load-8bit", action="store_true", help="hold the decoder's weights in 8 bits: less memory")
    parser.add_argument("--load-4bit", action="store_true", help="hold the decoder's weights in 4 bits: least memory")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest tokens of this mass")
    parser.add_argument("--top-k", type=int, default=0, help="sample from so many tokens, 0 = all")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    parser.add_argument(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="guess N tokens at once from the text so far: the same answer, faster where it repeats (default 0)",
    )
    add_hub_options(parser)
