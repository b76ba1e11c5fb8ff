"""LLaVA's run_llava: print the answer to one question about images."""

from __future__ import annotations

import argparse
import sys

from .card_options import add_card_option, loaded_on_cards, prepare_cards
from .llava_options import device_of
from .loading import add_loading_options
from .options import add_model_options, resolve_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, those of its first version included, and the package's own."""
    add_model_options(parser)
    parser.add_argument("--model-name", dest="model_path", default=argparse.SUPPRESS, help="the same as --model-path")
    parser.add_argument("--image-file", required=True, help="image files or URLs, with the separator between them")
    parser.add_argument("--query", required=True, help="the question; <image> in it marks the place of an image")
    parser.add_argument("--sep", default=",", help="separator of --image-file (default: a comma)")
    add_loading_options(parser)
    add_card_option(parser)
    parser.add_argument("--temperature", type=float, default=0.2, help="0: always the likeliest token (default 0.2)")
    parser.add_argument("--top_p", "--top-p", type=float, default=None, help="(default: all tokens)")
    parser.add_argument("--num_beams", "--num-beams", type=int, default=1, help="only 1: there is no beam search")
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=int, default=512, help="(default 512)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Load the model and print one answer. Raises ValueError or OSError for a user's mistake."""
    prepare_cards(arguments)
    from ..checkpoints.source import open_source
    from ..generate.requests import Request, answer_all
    from ..generate.sampling import SamplingParams
    from ..image.load import load_image
    from ..terminal.visible import harmless, visible

    if arguments.num_beams != 1:
        raise ValueError(f"--num_beams is {arguments.num_beams}: there is no beam search; leave it out, or give 1")
    arguments.device = device_of(arguments.device)
    sampling = SamplingParams(
        temperature=arguments.temperature,
        top_p=1.0 if arguments.top_p is None else arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
    )
    names = arguments.image_file.split(arguments.sep) if arguments.sep else [arguments.image_file]
    text = question_of(arguments.query, len(names))
    images = [load_image(name) for name in names]  # so that a wrong image is an error before the model is loaded
    (folder,) = resolve_models(arguments, arguments.model_path)
    with loaded_on_cards(arguments, open_source(folder, arguments.model_base)) as (model, processor):
        (answer,) = answer_all(model, processor, [Request(text, images)], sampling)
    clean = visible if sys.stdout.isatty() else harmless
    print(clean(answer.text.strip()))
    return 0


def question_of(query: str, num_images: int) -> str | tuple[str, ...]:
    """Return the text with the places of its images: those of `<image>` in it, or all before it without any.

    Raises ValueError if there are as many as neither.
    """
    parts = query.split("<image>")
    if len(parts) == 1:
        return query
    if len(parts) - 1 != num_images:
        raise ValueError(f"--query has {len(parts) - 1} <image> and --image-file {num_images} images: make them equal")
    return tuple(parts)
