"""Answers of /v1/chat/completions in OpenAI's shape, whole and as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..protocol import Delta, Ended, TokenLogprob
from .answers import Answers, ending, finite, head


@dataclass(frozen=True)
class ChatShape:
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str
    has_logprobs: bool = False
    has_token_ids: bool = False
    has_usage: bool = False

    def whole(self, answers: Answers) -> dict[str, Any]:
        """Return the complete answer."""
        choices = []
        for index, answer in enumerate(answers.list):
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            choice = {"index": index, "message": message, "logprobs": self._logprobs(answer.logprobs)}
            choice |= ending(answer.ended)
            choices.append(choice | ({"token_ids": answer.token_ids} if self.has_token_ids else {}))
        return {**self._head("chat.completion"), "choices": choices, "usage": answers.usage()}

    def opening(self, answers: Answers) -> Iterable[dict[str, Any]]:
        """Yield the first chunk of each answer."""
        for index in range(len(answers.list)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, event: Delta | Ended, answers: Answers) -> dict[str, Any] | None:
        """Return the chunk of an event, None for one that says nothing."""
        if isinstance(event, Ended):
            return self._chunk(index, {}, **ending(event))
        is_empty = not event.text and not (self.has_logprobs and event.logprobs) and not self.has_token_ids
        if is_empty:
            return None
        extra = {"token_ids": list(event.token_ids)} if self.has_token_ids else {}
        return self._chunk(index, {"content": event.text}, logprobs=self._logprobs(event.logprobs), **extra)

    def closing(self, answers: Answers) -> Iterable[dict[str, Any]]:
        """Yield the chunk with the usage, if it is asked for."""
        if self.has_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": answers.usage()}

    def _head(self, kind: str) -> dict[str, Any]:
        return head(self.id, kind, self.created, self.model)

    def _chunk(self, index: int, delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **fields}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if self.has_usage else chunk

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        content = [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in tokens]
        return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.text_bytes)}
