"""Answers to many questions in batches, each as a new chat with the same template would answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..image.preprocess import ImageTiles
from .batch import eval_mode
from .engine import decode_rows
from .features import FeatureCache, cache_of, encode_missing
from .prompts import read_prompts
from .sampling import Sampler, SamplingParams
from .turn import Turn, Writer, check_room, named_image, new_turn

WINDOW = 4  # number of batches whose requests are sorted together, so that equal images meet in a batch


@dataclass(frozen=True)
class Request:
    """A question, with images (path, URL, data URI, bytes, PIL) before its text. sampling: overrides the common one."""

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


@dataclass(frozen=True, eq=False)
class TurnRow:
    """A turn as a row of a batch. num_known: size of the vocabulary; later logits are of padding of the weights."""

    turn: Turn
    writer: Writer
    sampler: Sampler
    num_known: int

    @property
    def is_open(self) -> bool:
        return self.writer.is_open

    @property
    def num_places(self) -> int:
        """The maximum length of prompt and answer."""
        return len(self.turn.prompt_ids) + self.writer.budget

    def take(self, logits: np.ndarray) -> int:
        token = self.sampler(logits[: self.num_known])
        self.writer.append(token)
        return token

    def answer(self) -> Answer:
        turn = self.turn
        return Answer(turn.answer, tuple(turn.answer_ids), turn.finish_reason, len(turn.prompt_ids))


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
    """Yield (number of the request, answer) batch by batch; requests with equal images are answered side by side.

    system: in place of the template's system text. A batch has at most max_batch rows and at most max_places places of
    cache (16 GB of a 7B model in 16 bits), unless it is a single request. Raises ValueError with the number of the
    request for a bad image, and if there is no room in the context.
    """
    if max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}: expected at least 1")
    cache = cache_of(model)
    for start in range(0, len(requests), WINDOW * max_batch):
        window = requests[start : start + WINDOW * max_batch]
        rows = _rows(model, processor, window, sampling or SamplingParams(), system, start)
        for numbers in batches([(_names(row), row.num_places) for row in rows], max_batch, max_places):
            _answer_batch(model, [rows[number] for number in numbers], cache, shares_prefixes)
            yield from ((start + number, rows[number].answer()) for number in numbers)


def batches(rows: Sequence[tuple[Any, int]], max_batch: int, max_places: int) -> list[list[int]]:
    """Return the numbers of the rows (images, places) of each batch: equal images together, and similar lengths."""
    longest: dict[Any, int] = {}
    for images, places in rows:
        longest[images] = max(longest.get(images, 0), places)
    order = sorted(range(len(rows)), key=lambda number: (longest[rows[number][0]], *rows[number]))
    found: list[list[int]] = []
    for number in order:
        last = [*found[-1], number] if found else []
        if not last or len(last) > max_batch or len(last) * max(rows[each][1] for each in last) > max_places:
            found.append([])
        found[-1].append(number)
    return found


def _names(row: TurnRow) -> tuple[str, ...]:
    return tuple(name for name, _ in row.turn.images)


def _rows(model, processor, requests, sampling: SamplingParams, system: str | None, first: int) -> list[TurnRow]:
    """Return the rows of some requests. An image that several of them pass as the same object is prepared once."""
    context, eos_ids = model.config.language.max_position_embeddings, model.config.eos_token_ids
    prepared: dict[Any, tuple[str, ImageTiles]] = {}
    rows = []
    for number, request in enumerate(requests, start=first):
        try:
            for image in request.images:
                if _mark(image) not in prepared:
                    prepared[_mark(image)] = named_image(processor, image)
            images = [prepared[_mark(image)] for image in request.images]
            turn = new_turn(processor, request.text, images, None, system)
            room = check_room(len(turn.prompt_ids), context)
        except ValueError as error:
            raise ValueError(f"request {number}: {error}") from error
        own = request.sampling or sampling
        writer = Writer(turn, processor, own, eos_ids, room)
        rows.append(TurnRow(turn, writer, Sampler(own), processor.tokenizer.vocab_size))
    return rows


def _mark(image: Any) -> Any:
    """Return a key for an image of a request: equal for the same object."""
    return image if isinstance(image, str) else id(image)


def _answer_batch(model, rows: list[TurnRow], cache: FeatureCache, shares_prefixes: bool) -> None:
    images = dict(image for row in rows for image in row.turn.images)
    keys, budgets = [row.turn.prompt_keys for row in rows], [row.writer.budget for row in rows]
    with eval_mode(model):
        features = encode_missing(model, images, cache)
        engine, logits = read_prompts(model, keys, features, budgets, shares_prefixes=shares_prefixes)
        decode_rows(engine, logits, [len(each) for each in keys], rows)
