"""What a server tells the person who starts it: what it serves, where, and a first request."""

from __future__ import annotations

import json
import shlex
import sys

from ..terminal.log import notice
from .guards.origins import is_loopback
from .protocol import ModelInfo
from .settings import ServeSettings

WEIGHTS = {"int8": "int8", "nf4": "NF4"}  # kinds of quantization as people write them


def warn_if_open(settings: ServeSettings) -> None:
    """Print a warning if everyone who reaches this machine can use the server."""
    if not settings.api_keys and not is_loopback(settings.host):
        notice(
            f"WARNING: the server listens at {settings.host} without a key: everyone who reaches this machine can use "
            "it; --api-key sets one"
        )


def greet(settings: ServeSettings, info: ModelInfo, address: str, parts: str) -> None:
    """Print where the page is, and a first request. parts: how many processes answer ("2 workers"), "" for one."""
    name, kind = settings.names[0], settings.model.quantization
    weights = "" if kind is None else f" with {WEIGHTS[kind]} weights"
    context = f"{info.max_model_len} tokens of context"
    cards = "" if settings.model.num_cards == 1 else f", a model on {settings.model.num_cards} cards"
    where = f"on {info.device} in {info.dtype}{weights}{cards}"
    print(f"Serving {name} ({info.template}, {context}) {where}{parts and f', {parts}'}")
    print(f"Page:  {address}/\nAPI:   {address}/v1")
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    print(f"Try:   curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}")
    sys.stdout.flush()
