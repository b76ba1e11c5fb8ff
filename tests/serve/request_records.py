"""A record of a request with a value in each field, for tests of what is told of requests."""

from __future__ import annotations

from typing import Any

from paddlemix.serve.monitor.request_log import RequestRecord


def full_record(**changes: Any) -> RequestRecord:
    """Return a record of two answers about two images. changes: fields with other values."""
    fields = {
        "id": "chatcmpl-1", "path": "/v1/chat/completions", "model": "llava-tiny", "client": "127.0.0.1",
        "is_stream": True, "finish_reasons": ("stop", "length"), "num_prompt_tokens": 700, "num_cached_tokens": 64,
        "num_images": 2, "num_tiles": 6, "num_image_tokens": 640, "num_answer_tokens": (11, 30),
        "queue_seconds": 0.01, "prefill_seconds": 0.5, "decode_seconds": 2.9, "first_token_seconds": 0.52,
        "total_seconds": 3.5, "prompt": "user: a secret", "answers": ("one secret", "two"),
    }  # fmt: skip
    return RequestRecord(**{**fields, **changes})
