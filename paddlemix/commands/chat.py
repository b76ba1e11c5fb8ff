"""`paddlemix chat`: talk with a model about images, in a terminal or with piped questions."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..constants import BUNDLED_MODEL
from ..terminal.style import is_terminal, spinner
from ..terminal.visible import visible
from .card_options import add_card_option, loaded_on_cards, prepare_cards
from .loading import add_loading_options, quantization_of
from .options import add_model_options, resolve_models
from .parser import IMAGE, add_examples

if TYPE_CHECKING:
    from ..generate.session import ChatSession

BUNDLED_NAME = "the bundled tiny model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; those of PaddleMIX's script have its defaults."""
    add_model_options(parser)
    parser.add_argument("--image-file", action="append", default=[], help="image file or URL; may be repeated")
    parser.add_argument("--query", default=None, metavar="TEXT", help="print the answer to one question, and exit")
    add_loading_options(parser)
    add_card_option(parser)
    parser.add_argument("--temperature", type=float, default=0.2, help="0: always the likeliest token (default 0.2)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="maximum tokens of an answer (default 512)")
    parser.add_argument("--debug", action="store_true", help="print the prompt and the output of each turn")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample from the smallest set with this probability")
    parser.add_argument("--top-k", type=int, default=0, help="sample from this many likeliest tokens (0: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="guess the next N tokens from the text so far: the answer is the same, but faster where text repeats "
        "(default 0)",
    )
    add_examples(
        parser,
        f"paddlemix chat --image-file {IMAGE}",
        f"paddlemix chat --image-file {IMAGE} --temperature 0 --query 'How many shapes are there?'",
    )


def run(arguments: argparse.Namespace) -> int:
    """Load the model and chat until an empty line, or answer --query. Raises ValueError or OSError for a mistake."""
    prepare_cards(arguments)
    from ..generate.sampling import SamplingParams
    from ..image.load import load_image

    sampling = SamplingParams(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        lookup=arguments.speculate,
    )
    if arguments.query is not None and not arguments.query.strip():
        raise ValueError("--query is empty: expected a question, or leave the option out to chat")
    quantization_of(arguments)  # which raises for both, before images are read
    for image in arguments.image_file:
        load_image(image)  # so that a wrong image is an error before the model is loaded
    (folder,) = resolve_models(arguments, arguments.model_path)
    with contextlib.ExitStack() as stack:
        with spinner(f"loading {model_name(arguments)}"), quiet_libraries():
            from ..checkpoints.source import open_source
            from ..generate.session import ChatSession

            source = open_source(folder, arguments.model_base)
            model, processor = stack.enter_context(loaded_on_cards(arguments, source))
        _converse(arguments, ChatSession(model, processor, sampling=sampling), source.folders)
    return 0


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the warnings that libraries give when they are imported off a terminal, unless Python was asked for them."""
    if sys.warnoptions or not is_terminal(sys.stderr):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _converse(arguments: argparse.Namespace, session: ChatSession, sources: list[Path]) -> None:
    from .chat_commands import END_WORDS
    from .chat_input import edited_lines
    from .chat_loop import ChatLoop

    is_typed = sys.stdin.isatty()
    loop = ChatLoop(session, arguments.image_file, sources=sources, is_debug=arguments.debug, is_echoing=not is_typed)
    if arguments.query is not None:
        loop.answer_once(arguments.query)
    elif not is_typed:
        loop.run()
    else:
        for line in introduction(arguments, session):
            print(visible(line))
        with edited_lines([*loop.commands, *END_WORDS[2:]]):
            loop.run()


def model_name(arguments: argparse.Namespace) -> str:
    """Return how the chat calls its model."""
    is_bundled = Path(arguments.model_path).absolute() == Path(BUNDLED_MODEL)
    return BUNDLED_NAME if is_bundled else arguments.model_path


def introduction(arguments: argparse.Namespace, session: ChatSession) -> list[str]:
    """Return what a chat tells at its start: model, template and images."""
    import paddle

    from .chat_commands import image_facts

    images, name = arguments.image_file, model_name(arguments)
    dtype = str(session.model.language_model.norm.weight.dtype).split(".")[-1]
    weights = f"{quantization_of(arguments) or dtype} on {paddle.get_device()}"
    lines = [
        f"model     {name} ({weights})",
        *(["          knows colored shapes only"] if name == BUNDLED_NAME else []),
        f"template  {session.processor.template.name}",
        *(f"image     {image}: {image_facts(session, image)}" for image in images),
    ]
    lines += [] if images else ["image     none: type the path of one, or /image PATH"]
    return [*lines, "/help lists the commands, an empty line quits.", ""]
