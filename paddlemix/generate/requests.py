"""Answers to many questions at the same time, each as a new chat with the same template would answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..image.preprocess import ImageTiles
from .batch import eval_mode
from .engine import Engine, features_of
from .sampling import SamplingParams
from .turn import Turn, named_image, new_turn, sequence_of

WINDOW = 64  # requests that are sorted together, so that equal images meet


@dataclass(frozen=True)
class Request:
    """A question with images: path, URL, data URI, bytes, PIL, or a function that returns one when it is needed.

    text: a string, with the images before it, each on its own line; or a tuple of texts with an image between each two.
    sampling: overrides the common one. answer_start: how the answer starts; what is generated continues it and is the
    text of the answer.
    """

    text: str | tuple[str, ...]
    images: Sequence[Any] = ()
    sampling: SamplingParams | None = None
    answer_start: str = ""


@dataclass(frozen=True)
class Answer:
    """finish_reason: "stop", "length" (max_new_tokens) or "context" (the context is full), as of a `Sequence`."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_prompt_tokens: int


def answer_each(
    model,
    processor,
    requests: Sequence[Request],
    sampling: SamplingParams | None = None,
    *,
    system: str | None = None,
    engine: Engine | None = None,
    is_going_on: bool = False,
) -> Iterator[tuple[int, Answer | Exception]]:
    """Yield (number of the request, answer) as the answers end; requests with equal images run side by side.

    system: in place of the template's system text. engine: by default a new one, whose cache is freed at the end.
    Raises ValueError with the number of the request for a bad image, and if there is no room in the context; with
    is_going_on the error, without the number, is yielded in place of the answer.
    """
    engine = engine or Engine(model, features=features_of(model))
    numbers: dict[Any, int] = {}  # of the requests, by their open sequences
    try:
        for start in range(0, len(requests), WINDOW):
            window = requests[start : start + WINDOW]
            turns, errors = _turns(engine, processor, window, sampling or SamplingParams(), system, start)
            for number, error in errors.items():
                if not is_going_on:
                    raise ValueError(f"request {number}: {error}") from error
                yield number, error
            for number in sorted(turns, key=lambda number: ([name for name, _ in turns[number].images], number)):
                engine.add(turns[number].sequence)
                numbers[turns[number].sequence] = number
            is_last = start + WINDOW >= len(requests)
            # The next window is prepared when nothing waits any more, so that the engine is never idle.
            while numbers and (is_last or engine.num_waiting):
                yield from _ended(model, engine, numbers)
    finally:
        for sequence in numbers:
            engine.cancel(sequence)


def _ended(model, engine: Engine, numbers: dict[Any, int]) -> list[tuple[int, Answer]]:
    """Do a step; return the answers that have ended, and take their sequences out of `numbers`."""
    with eval_mode(model):
        engine.step()
    ended = [sequence for sequence in numbers if not sequence.is_open]
    for sequence in ended:
        if sequence.error is not None:
            raise sequence.error
    return [
        (numbers.pop(each), Answer(each.text, tuple(each.answer_ids), each.finish_reason, each.num_prompt))
        for each in ended
    ]


def answer_all(
    model,
    processor,
    requests: Sequence[Request],
    sampling: SamplingParams | None = None,
    *,
    system: str | None = None,
    engine: Engine | None = None,
) -> list[Answer]:
    """Return the answers in the order of the requests; see `answer_each`."""
    answers = dict(answer_each(model, processor, requests, sampling, system=system, engine=engine))
    return [answers[number] for number in range(len(requests))]


def _turns(
    engine: Engine, processor, requests, sampling: SamplingParams, system: str | None, first: int
) -> tuple[dict[int, Turn], dict[int, Exception]]:
    """Return the turns of some requests by number, and the errors of the others.

    An image that several pass as the same object, or as equal functions, is prepared once.
    """
    prepared: dict[Any, tuple[str, ImageTiles]] = {}
    turns, errors = {}, {}
    for number, request in enumerate(requests, start=first):
        try:
            for image in request.images:
                if _mark(image) not in prepared:
                    prepared[_mark(image)] = named_image(processor, image() if callable(image) else image)
            images = [prepared[_mark(image)] for image in request.images]
            turn = new_turn(processor, request.text, images, None, system)
            turn.prompt_ids += processor.tokenizer.encode(request.answer_start, is_start=False)
            turn.sequence = sequence_of(processor, [turn], request.sampling or sampling, engine.model.config)
            engine.check(turn.sequence)
        except (ValueError, OSError) as error:
            errors[number] = error
        else:
            turns[number] = turn
    return turns, errors


def _mark(image: Any) -> Any:
    """Return a key for an image of a request: equal for the same object."""
    return image if isinstance(image, str) or callable(image) else id(image)
