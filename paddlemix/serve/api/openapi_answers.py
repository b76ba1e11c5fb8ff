"""JSON schemas of the answers, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

NUMBER, TEXT = {"type": "integer"}, {"type": "string"}
REASON = {"enum": ["stop", "length"]}
USAGE = {
    "type": "object",
    "properties": {
        "prompt_tokens": NUMBER,
        "completion_tokens": NUMBER,
        "total_tokens": NUMBER,
        "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": NUMBER}},
    },
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
}
LOGPROBS = {"type": ["object", "null"]}


def _answer(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a whole answer. choice: the properties of a choice, all of them required."""
    properties = {"index": NUMBER, "finish_reason": REASON, "logprobs": LOGPROBS, **choice}
    choices = {"type": "object", "properties": properties, "required": list(properties)}
    fields = {
        "id": TEXT,
        "object": {"const": kind},
        "created": NUMBER,
        "model": TEXT,
        "choices": {"type": "array", "items": choices},
        "usage": USAGE,
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


MESSAGE = {
    "type": "object",
    "properties": {"role": {"const": "assistant"}, "content": TEXT, "refusal": {"type": "null"}},
    "required": ["role", "content"],
}
ANSWERS = {
    "ChatAnswer": _answer("chat.completion", {"message": MESSAGE}),
    "CompletionAnswer": _answer("text_completion", {"text": TEXT}),
}
