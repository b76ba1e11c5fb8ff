"""Read what a judge's server answers: a chat completion, or one of many refusals."""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...web.request import TOO_MANY_REQUESTS, printable
from .server import Server

REQUEST_TIMEOUT = 408
CONFLICT = 409
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404
CUT = ("length", "content_filter")  # finish reasons after which a second request would end the same way


@dataclass(frozen=True)
class Reply:
    """A judge's answer. model: that answered, by the server's own name for it; "" if it names none."""

    text: str
    model: str
    finish_reason: str


class JudgeError(ValueError):
    """The server refuses every request: a wrong key, an unknown model, a wrong address."""


class RefusedRequest(JudgeError):
    """The server refuses a request, because of its settings or of its text alone."""


class Passing(Exception):
    """A failure that may not happen again. asked_wait: seconds that the server asks to wait."""

    def __init__(self, text: str, asked_wait: float = 0.0):
        super().__init__(text)
        self.asked_wait = asked_wait


class Unsupported(Exception):
    """A setting is refused by the model, and can be left out."""

    def __init__(self, setting: str):
        super().__init__(setting)
        self.setting = setting


def read_answer(
    server: Server,
    status: int,
    headers: Mapping[str, str],
    data: bytes,
    sent: Mapping[str, Any],
    *,
    has_replied: bool,
) -> Reply:
    """Return the reply in an answer of the server to the body `sent`.

    has_replied: whether it has replied before, so that an answer that is no completion is a mishap and not a wrong
    address. Raises Passing, Unsupported, RefusedRequest or JudgeError.
    """
    value = _parsed(data)
    if status == 200:
        return _reply(server, value, data, sent, has_replied)
    found = f"HTTP status {status}"
    text = _message(value)
    if text and status not in (UNAUTHORIZED, FORBIDDEN):  # these quote parts of the key
        found += f": {printable(server.shown(text))}"
    if status == TOO_MANY_REQUESTS and _error(value).get("code") == "insufficient_quota":
        raise JudgeError(f"the account at {server.url} has no credit left ({found})")
    if status in (REQUEST_TIMEOUT, CONFLICT, TOO_MANY_REQUESTS) or status >= 500:
        raise Passing(found, seconds_asked(headers.get("Retry-After", "")))
    setting = _error(value).get("param")
    if setting in ("max_tokens", "temperature") and setting in sent:
        raise Unsupported(setting)
    raise _refusal(server, status, headers, found, sent["model"])


def _refusal(server: Server, status: int, headers: Mapping[str, str], found: str, model: str) -> JudgeError:
    url = server.url
    if status == UNAUTHORIZED and not server.key:
        return JudgeError(f"{url} expects a key ({found}): set OPENAI_API_KEY")
    if status == UNAUTHORIZED:
        return JudgeError(f"{url} does not accept the key ({found}): set OPENAI_API_KEY to a key of this server")
    if status == FORBIDDEN:
        return JudgeError(f"{url} does not let this key use {model!r} ({found}): check both")
    if status == NOT_FOUND:
        return JudgeError(
            f"{url} has no model {model!r}, or is no chat endpoint ({found}): check the judge's name and "
            "OPENAI_BASE_URL or --judge-url, which usually ends with /v1"
        )
    if 300 <= status < 400:
        place = printable(server.shown(headers.get("Location", "another address")))
        return JudgeError(f"{url} has moved to {place} ({found}): set OPENAI_BASE_URL to the new address")
    return RefusedRequest(f"{url} refuses the request ({found})")


def _reply(server: Server, value: Any, data: bytes, sent: Mapping[str, Any], has_replied: bool) -> Reply:
    if value is None and not has_replied:
        start = printable(server.shown(data[:4000].decode("utf-8", "replace"))[:40])
        raise JudgeError(
            f"{server.url} answers, but not with JSON ({start!r}): it is no chat endpoint; check OPENAI_BASE_URL, "
            "which usually ends with /v1"
        )
    try:
        choice = value["choices"][0]
        content, reason = choice["message"].get("content"), str(choice.get("finish_reason") or "")
        if not isinstance(content, str | None):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError):
        text = _message(value) or "no chat completion"
        raise Passing(f"the judge answered with {printable(server.shown(text))}") from None
    if not (content or "").strip():
        limit = sent.get("max_tokens", sent.get("max_completion_tokens"))
        text = f"the judge's answer is empty (finish_reason {reason or 'none'}, limit {limit} tokens)"
        raise RefusedRequest(text) if reason in CUT else Passing(text)
    model = value.get("model")
    return Reply(content, model if isinstance(model, str) else "", reason)


def _parsed(data: bytes) -> Any:
    """Return the JSON value of a body, None if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _error(value: Any) -> Mapping[str, Any]:
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {}


def _message(value: Any) -> str:
    """Return the text of an error as OpenAI ({"error": {"message"}}) and other servers write it, "" without one."""
    if not isinstance(value, dict):
        return ""
    found = (_error(value).get("message"), value.get("error"), value.get("message"), value.get("detail"))
    return next((text for text in found if isinstance(text, str) and text), "")


def seconds_asked(value: str) -> float:
    """Return the seconds of a Retry-After header: a number or a date; 0.0 for anything else (RFC 9110, 10.2.3)."""
    value = value.strip()
    try:
        return min(max(float(value), 0.0), 1e9) if value[:1].isdigit() else _until(value)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _until(date: str) -> float:
    moment = email.utils.parsedate_to_datetime(date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return max((moment - datetime.datetime.now(datetime.timezone.utc)).total_seconds(), 0.0)
