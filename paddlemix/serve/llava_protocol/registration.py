"""A worker tells LLaVA's controller where it is, and a page asks the controller for a worker."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from ...terminal.log import notice
from .worker_registry import HEARTBEAT_SECONDS

SECONDS = 5.0  # for one request, and between two tries


def post(url: str, data: Any) -> Any:
    """Send JSON to a controller and return its answer. Raises ValueError with the reason if there is none."""
    request = Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=SECONDS) as answer:  # not through a proxy
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise ValueError(f"{url} does not answer: {_plain(error)}") from None


def _plain(error: Exception) -> str:
    """Return what is wrong with a connection in words, without the number of an error."""
    reason = error.reason if isinstance(error, URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)


def worker_for_page(controller: str) -> str:
    """Return the address of a worker, "" if there is none yet. Raises ValueError if the controller is not there."""
    models = post(f"{controller}/list_models", {})["models"]
    return post(f"{controller}/get_worker_address", {"model": models[0]})["address"] if models else ""


def register_when_ready(controller: str, address: str, model: str, local: str) -> threading.Thread:
    """Start a thread that registers a worker as soon as it answers, and sends heartbeats until the process ends.

    address: what others reach it by. local: the address by which this machine does.
    """
    thread = threading.Thread(target=_keep_registered, args=(controller, address, model, local), daemon=True)
    thread.start()
    return thread


def _keep_registered(controller: str, address: str, model: str, local: str) -> None:
    while not _is_ready(local):
        time.sleep(0.2)
    status = {"model_names": [model], "speed": 1, "queue_length": 0}
    is_told = is_known = False
    while True:
        try:
            if not is_known:
                data = {"worker_name": address, "check_heart_beat": True, "worker_status": status}
                post(f"{controller}/register_worker", data)
            beat = {"worker_name": address, "queue_length": 0}
            is_known = bool(post(f"{controller}/receive_heart_beat", beat)["exist"])
        except ValueError as error:
            if not is_told:
                notice(f"not registered yet, tried again every {SECONDS:.0f} seconds: {error}")
            is_told, is_known = True, False
        time.sleep(HEARTBEAT_SECONDS if is_known else SECONDS)


def _is_ready(address: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{address}/ready", timeout=SECONDS) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False
