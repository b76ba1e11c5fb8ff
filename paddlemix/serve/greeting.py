"""What a server tells the person who starts it: what it serves, where, a first request, and how to stop."""

from __future__ import annotations

import json
import shlex

from ..terminal.columns import width_of, wrapped
from ..terminal.log import notice
from .guards.access import KEY_VARIABLE
from .guards.origins import is_loopback
from .protocol import ModelInfo
from .settings import ServeSettings

WEIGHTS = {"int8": "int8", "nf4": "NF4"}  # kinds of quantization as people write them
WIDTH = 80  # of a terminal


def warn_if_open(settings: ServeSettings) -> None:
    """Print a warning if everyone who reaches this machine can use the server."""
    if not settings.api_keys and not is_loopback(settings.host):
        notice(
            f"WARNING: the server listens at {settings.host} without a key:\n"
            f"everyone who reaches this machine can use it. Set {KEY_VARIABLE}, or give\n"
            "--api-key @FILE (a key in the command line itself is seen in `ps`)"
        )


def greet(settings: ServeSettings, info: ModelInfo, address: str, parts: str) -> None:
    """Print where the page is, a first request and how to stop. parts: what answers ("2 workers"), "" for a process."""
    kind = settings.model.quantization
    weights = "" if kind is None else f" with {WEIGHTS[kind]} weights"
    context = f"{info.max_model_len} tokens of context"
    cards = "" if settings.model.num_cards == 1 else f", a model on {settings.model.num_cards} cards"
    where = f"on {info.device} in {info.dtype}{weights}{cards}"
    served = f"Serving {settings.names[0]} ({info.template}, {context}) {where}{parts and f', {parts}'}"
    print("\n       ".join(wrapped(served, WIDTH - 7)) if width_of(served) > WIDTH else served)
    print(f"Page:  {address}/\nAPI:   {address}/v1")
    # Without the model's name, which may be long: the server takes its first one.
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    headers = ["Content-Type: application/json", *(["Authorization: Bearer KEY"] if settings.api_keys else [])]
    options = [*(f"-H {shlex.quote(header)}" for header in headers), f"-d {shlex.quote(body)}"]
    print(f"Try:   curl {address}/v1/chat/completions", *options, sep=" \\\n         ")
    print("Stop:  Ctrl-C", flush=True)
