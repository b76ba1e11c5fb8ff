"""The answers of a request as they grow, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ... import __version__
from ..protocol import Accepted, Delta, Ended, JobEvent, TokenLogprob

LOWEST_LOGPROB = -9999.0  # JSON has no -inf; OpenAI's API gives this too
FINGERPRINT = f"paddlemix-{__version__}"


@dataclass
class Answer:
    """One answer. Its text grows by pieces."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: Ended | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def num_tokens(self) -> int:
        """The tokens of the answer; those that have come if it has not ended."""
        return self.ended.num_tokens if self.ended else len(self.token_ids)


class Answers:
    """The answers of all jobs of a request: num_each of the first job, then of the second, and so on."""

    def __init__(self, num_jobs: int, num_each: int):
        self.num_each = num_each
        self.accepted: list[Accepted | None] = [None] * num_jobs
        self.list = [Answer() for _ in range(num_jobs * num_each)]

    def take(self, job: int, event: JobEvent) -> int | None:
        """Add an event of a job; return the number of its answer among all, None if it is of no answer."""
        if isinstance(event, Accepted):
            self.accepted[job] = event
            return None
        index = job * self.num_each + event.index
        answer = self.list[index]
        if isinstance(event, Delta):
            answer.pieces.append(event.text)
            answer.token_ids += event.token_ids
            answer.logprobs += event.logprobs
        elif isinstance(event, Ended):
            answer.ended = event
        return index

    @property
    def ended(self) -> list[Ended]:
        return [answer.ended for answer in self.list if answer.ended is not None]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(accepted.num_prompt_tokens for accepted in self.accepted if accepted)

    @property
    def num_answer_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.list)

    @property
    def num_cached_tokens(self) -> int:
        """Places of the prompts that were known before. A later answer to a prompt knows the first one's places."""
        total = 0
        for start in range(0, len(self.list), self.num_each):
            ended = [answer.ended for answer in self.list[start : start + self.num_each] if answer.ended]
            total += min((one.num_cached_tokens for one in ended), default=0)
        return total

    def usage(self) -> dict[str, Any]:
        """Return the counts in OpenAI's shape."""
        prompt, answer = self.num_prompt_tokens, self.num_answer_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }


def finite(logprob: float) -> float:
    """Return a logarithm of a probability as JSON can hold it."""
    return max(logprob, LOWEST_LOGPROB)


def head(id: str, kind: str, created: int, model: str) -> dict[str, Any]:
    """Return what an answer and each of its chunks begin with."""
    return {"id": id, "object": kind, "created": created, "model": model, "system_fingerprint": FINGERPRINT}


def ending(ended: Ended | None) -> dict[str, Any]:
    """Return the fields of a choice that say why its answer ended, if it has."""
    if ended is None:
        return {"finish_reason": None}
    return {"finish_reason": ended.finish_reason, "stop_reason": ended.stop_reason}
