"""Ask a model the questions of a benchmark."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..generate.engine import Engine
from ..generate.requests import Answer, Request, answer_each
from ..generate.sampling import SamplingParams
from .item import Question
from .prompts import Style
from .results import Saved

NUM_AT_A_TIME = 16


@dataclass(frozen=True)
class Decoding:
    """How answers are chosen. temperature 0 is greedy; else the seed of a question is made of `seed` and its id."""

    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        self.sampling("")  # which raises ValueError for values that make no sense

    @classmethod
    def of(cls, style: Style, max_new_tokens: int | None = None, temperature: float | None = None, seed: int = 0):
        """Return the decoding of a style; None keeps what the style says."""
        return cls(
            max_new_tokens or style.max_new_tokens,
            style.temperature if temperature is None else temperature,
            style.stop,
            seed,
        )

    def sampling(self, name: str) -> SamplingParams:
        """Return the settings for the question of an id."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            seed=zlib.crc32(f"{self.seed} {name}".encode("utf-8", "surrogatepass")),
        )


def ask_all(
    model,
    processor,
    questions: Sequence[Question],
    decoding: Decoding,
    *,
    engine: Engine | None = None,
    answer_starts: Mapping[str, str] | None = None,
) -> Iterator[tuple[Question, Saved]]:
    """Yield each question with its answer, in the order in which the answers end.

    Questions run side by side in the engine, those with the same image together; each answer is the one that its
    question would get alone. engine: by default one for NUM_AT_A_TIME questions. A question whose image cannot be read,
    or that is longer than the context, is yielded with the problem. answer_starts: texts by id that the answers
    continue; see `Request`.
    """
    starts = answer_starts or {}
    engine = engine or Engine(model, max_slots=NUM_AT_A_TIME)
    requests = [Request(one.pieces, one.images, decoding.sampling(one.id), starts.get(one.id, "")) for one in questions]
    for number, answer in answer_each(model, processor, requests, engine=engine, is_going_on=True):
        yield questions[number], _saved(answer)


def _saved(answer: Answer | Exception) -> Saved:
    if isinstance(answer, Answer):
        return Saved(answer.text.strip(), "", answer.finish_reason, answer.num_prompt_tokens)
    return Saved(None, str(answer))
