"""Answers of /v1/completions in OpenAI's shape, whole and as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..protocol import Delta, Ended, TokenLogprob
from .answers import Answers, ending, finite, head


@dataclass(frozen=True)
class CompletionShape:
    """What all chunks of an answer have in common. is_echoing: each text begins with its prompt."""

    id: str
    created: int
    model: str
    has_logprobs: bool = False
    has_token_ids: bool = False
    has_usage: bool = False
    is_echoing: bool = False
    _offsets: dict[int, int] = field(default_factory=dict)  # of the next token of each streamed answer, in characters

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the complete answer."""
        choices = []
        for index, answer in enumerate(answers.list):
            prompt = self._echo(index, answers)
            fields = {"logprobs": self._logprobs(answer.logprobs, len(prompt))}
            fields |= {"token_ids": answer.token_ids} if self.has_token_ids else {}
            choices.append(_choice(index, prompt + answer.text, answer.ended, fields))
        return {**self._head(), "choices": choices, "usage": answers.usage()}

    def opening(self, answers: Answers) -> Iterable[dict[str, Any]]:
        """Yield nothing: an answer begins with its first event."""
        return ()

    def chunk(self, index: int, event: Delta | Ended, answers: Answers) -> dict[str, Any] | None:
        """Return the chunk of an event, None for one that says nothing."""
        prompt = self._echo(index, answers) if index not in self._offsets else ""
        start = self._offsets.setdefault(index, len(prompt))
        if isinstance(event, Ended):
            return self._chunk(_choice(index, prompt, event, {"logprobs": None}))
        is_empty = not event.text and not prompt and not (self.has_logprobs and event.logprobs)
        if is_empty and not self.has_token_ids:
            return None
        self._offsets[index] += sum(len(token.text) for token in event.logprobs)
        fields = {"logprobs": self._logprobs(event.logprobs, start)}
        fields |= {"token_ids": list(event.token_ids)} if self.has_token_ids else {}
        return self._chunk(_choice(index, prompt + event.text, None, fields))

    def closing(self, answers: Answers) -> Iterable[dict[str, Any]]:
        """Yield the chunk with the usage, if it is asked for."""
        if self.has_usage:
            yield {**self._head(), "choices": [], "usage": answers.usage()}

    def _head(self) -> dict[str, Any]:
        return head(self.id, "text_completion", self.created, self.model)

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head(), "choices": [choice]}
        return {**chunk, "usage": None} if self.has_usage else chunk

    def _echo(self, index: int, answers: Answers) -> str:
        accepted = answers.accepted[index // answers.num_each]
        return accepted.prompt_text if self.is_echoing and accepted else ""

    def _logprobs(self, tokens: Sequence[TokenLogprob], start: int) -> dict[str, Any] | None:
        """Return the old shape. start: characters of the text before the first of these tokens."""
        if not self.has_logprobs:
            return None
        offsets = [start]
        for token in tokens:
            offsets.append(offsets[-1] + len(token.text))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.text: finite(one.logprob) for one in (*token.top, token)} for token in tokens],
            "text_offset": offsets[:-1],
        }


def _choice(index: int, text: str, ended: Ended | None, fields: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "text": text, **fields, **ending(ended)}
