"""Answers to many questions with the same template: each as a new chat would answer it, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..image.tiles import ImageTiles
from .batch import eval_mode
from .decode import continue_rows
from .prompts import read_prompts
from .sampling import Sampler, SamplingParams
from .turn import Turn, Writer, check_room, named_picture, new_turn

WINDOW = 4  # batches whose requests are looked at together, to put those with the same pictures side by side


@dataclass(frozen=True)
class Request:
    """A question; images (path, URL, data URI, bytes, PIL) stand before its text. sampling: other than that of all."""

    text: str
    images: Sequence[Any] = ()
    sampling: SamplingParams | None = None


@dataclass(frozen=True)
class Answer:
    """finish_reason: "stop", "length" (max_new_tokens) or "context" (the context is full), as of a `Turn`."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    num_prompt_tokens: int


class AnswerRow:
    """A turn and its answer as a row of a batch."""

    def __init__(self, turn: Turn, writer: Writer, sampling: SamplingParams, num_known: int):
        self.turn = turn
        self.writer = writer
        self._sampler = Sampler(sampling)
        self._num_known = num_known

    @property
    def is_open(self) -> bool:
        return self.writer.is_open

    @property
    def num_places(self) -> int:
        """How long prompt and answer may become."""
        return len(self.turn.prompt_ids) + self.writer.budget

    def take(self, logits: np.ndarray) -> int:
        token = self._sampler(logits[: self._num_known])  # rows behind it are padding of the weights
        self.writer.put(token)
        return token

    def answer(self) -> Answer:
        turn = self.turn
        return Answer(turn.answer, tuple(turn.answer_ids), turn.finish_reason, len(turn.prompt_ids))


def answer_all(
    model,
    processor,
    requests: Sequence[Request],
    sampling: SamplingParams | None = None,
    *,
    system: str | None = None,
    max_batch: int = 16,
    max_places: int = 32_768,
    shares_prefixes: bool = True,
) -> list[Answer]:
    """Return the answers in the order of the requests; see `answer_each`."""
    numbered = answer_each(
        model,
        processor,
        requests,
        sampling,
        system=system,
        max_batch=max_batch,
        max_places=max_places,
        shares_prefixes=shares_prefixes,
    )
    return [answer for _, answer in sorted(numbered, key=lambda pair: pair[0])]


def answer_each(
    model,
    processor,
    requests: Sequence[Request],
    sampling: SamplingParams | None = None,
    *,
    system: str | None = None,
    max_batch: int = 16,
    max_places: int = 32_768,
    shares_prefixes: bool = True,
) -> Iterator[tuple[int, Answer]]:
    """Yield (number of the request, answer) batch by batch; requests with the same pictures are put side by side.

    system: other than the template's own. A batch has at most max_batch rows and takes at most max_places places of
    cache (16 GB of a 7B model in 16 bits), unless it is a single request. Raises ValueError with the number of the
    request for a bad picture, and where there is no room in the context.
    """
    if max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}: expected at least 1")
    for start in range(0, len(requests), WINDOW * max_batch):
        window = requests[start : start + WINDOW * max_batch]
        rows = _rows(model, processor, window, sampling or SamplingParams(), system, start)
        for numbers in batches([(_names(row), row.num_places) for row in rows], max_batch, max_places):
            _answer_batch(model, [rows[number] for number in numbers], shares_prefixes)
            yield from ((start + number, rows[number].answer()) for number in numbers)


def batches(rows: Sequence[tuple[Any, int]], max_batch: int, max_places: int) -> list[list[int]]:
    """Return the numbers of the rows (pictures, places) of each batch: same pictures together, and like lengths."""
    longest: dict[Any, int] = {}
    for pictures, places in rows:
        longest[pictures] = max(longest.get(pictures, 0), places)
    order = sorted(range(len(rows)), key=lambda number: (longest[rows[number][0]], *rows[number]))
    found: list[list[int]] = []
    for number in order:
        last = [*found[-1], number] if found else []
        if not last or len(last) > max_batch or len(last) * max(rows[each][1] for each in last) > max_places:
            found.append([])
        found[-1].append(number)
    return found


def _names(row: AnswerRow) -> tuple[str, ...]:
    return tuple(name for name, _ in row.turn.pictures)


def _rows(model, processor, requests, sampling: SamplingParams, system: str | None, first: int) -> list[AnswerRow]:
    """Make the rows of some requests; a picture that several of them name by the same object is prepared once."""
    context, eos_ids = model.config.language.max_position_embeddings, model.config.eos_token_ids
    prepared: dict[Any, tuple[str, ImageTiles]] = {}
    rows = []
    for number, request in enumerate(requests, start=first):
        try:
            for image in request.images:
                if _mark(image) not in prepared:
                    prepared[_mark(image)] = named_picture(processor, image)
            pictures = [prepared[_mark(image)] for image in request.images]
            turn = new_turn(processor, request.text, pictures, None, system)
            room = check_room(len(turn.prompt_ids), context)
        except ValueError as error:
            raise ValueError(f"request {number}: {error}") from error
        own = request.sampling or sampling
        writer = Writer(turn, processor, own, eos_ids, room)
        rows.append(AnswerRow(turn, writer, own, processor.tokenizer.vocab_size))
    return rows


def _mark(image: Any) -> Any:
    """Return by what an image is known while its request is held."""
    return image if isinstance(image, str) else id(image)


def _answer_batch(model, rows: list[AnswerRow], shares_prefixes: bool) -> None:
    pictures = dict(picture for row in rows for picture in row.turn.pictures)
    keys = [row.turn.prompt_keys for row in rows]
    room = max(row.writer.budget for row in rows)
    with eval_mode(model):
        engine, logits = read_prompts(model, keys, pictures, room, shares_prefixes=shares_prefixes)
        continue_rows(engine, logits, [len(each) for each in keys], rows)
