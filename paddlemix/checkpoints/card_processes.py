"""The processes of `--tensor-parallel N`: this one leads, and N - 1 others, started here, follow on the next cards.

They find each other by the variables that `paddle.distributed.launch` would set. The followers are `card_follower`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import device as devices
from ..accelerators import has_plugin
from ..device import CPU, GPU, NPU, WITHOUT_LIBUV, XCCL_BACKEND
from ..models.parallel.cuts import check_degree
from ..packages import import_path
from ..terminal.log import print_error

if TYPE_CHECKING:
    from ..models.parallel.cards import Cards
    from .source import Source

OPTION = "--tensor-parallel"
CARD = "PADDLEMIX_CARD"  # set in the processes that share a model: the number of the card
# What paddle reads when it is imported; see `device.prepare_environment`.
EARLY = {**WITHOUT_LIBUV, "GLOG_minloglevel": "2"}
POLL = 0.5  # seconds
PATIENCE = 10.0  # seconds for a follower to end


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, as `load_both` takes it; the same in all processes."""

    base: str | None = None
    template: str | None = None
    dtype: str | None = None
    device: str | None = None
    quantization: str | None = None


def prepare(number: int) -> None:
    """Check a number of cards, and set what paddle reads when it is imported. Raises ValueError."""
    if number < 1:
        raise ValueError(f"{OPTION} is {number}: expected a number of cards from 1 on")
    if number > 1 and int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        raise ValueError(f"{OPTION} starts its processes itself: leave paddle.distributed.launch out")
    os.environ.update(EARLY if number > 1 else {})


@contextlib.contextmanager
def started(number: int, source: Source, loading: Loading, worker: int = 0, num_workers: int = 1) -> Iterator[None]:
    """Start the followers of a number of cards, and end them afterwards. `prepare` comes first.

    source: the model. worker, num_workers: this process among those with a model on this machine, each of which has as
    many cards. Raises ValueError for a number of cards that is not there, or over which the model cannot be divided.
    """
    if number == 1:
        yield
        return
    check_degree(source.config, number, OPTION)
    kind = kind_of(loading.device)
    _check_cards(kind, number, num_workers)
    endpoints = free_endpoints(number)
    options = json.dumps({"path": str(source.path), **dataclasses.asdict(loading)})
    variables = [card_variables(kind, endpoints, rank, worker * number + rank) for rank in range(number)]
    processes = [_start(options, each) for each in variables[1:]]
    os.environ.update(variables[0])
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(processes, is_over), daemon=True).start()
    patience = 0.0
    try:
        yield
        patience = PATIENCE
    finally:
        is_over.set()
        for process in processes:
            _end(process, patience)


def kind_of(device: str | None) -> str:
    """Return the kind of device that the cards are. Raises ValueError for the name of a single card."""
    if device is None:
        return NPU if has_plugin(NPU) else GPU
    if ":" in device:
        raise ValueError(f"--device is {device!r}, and {OPTION} takes the first cards: name the kind only")
    return device


def join_cards(device: str | None) -> Cards | None:
    """Return the cards that share a model with this process, None if no others were started for it."""
    card = os.environ.get(CARD)
    if card is None:
        return None
    from ..models.parallel.cards import join

    kind = kind_of(device)
    devices.use_device(CPU if kind == CPU else f"{kind}:{card}")
    with contextlib.redirect_stderr(io.StringIO()):  # paddle lists the flags that are set
        return join()


@contextlib.contextmanager
def leading(model) -> Iterator[None]:
    """Let this process generate with the parts of all cards; nothing to do for a whole model."""
    if model.cards is None:
        yield
        return
    leader = model.language_model.lead()
    try:
        yield
    finally:
        leader.end()


@contextlib.contextmanager
def loaded(
    number: int, source: Source, loading: Loading, worker: int = 0, num_workers: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Yield the model, or this card's part of it, and its processor while the followers run. See `started`."""
    with started(number, source, loading, worker, num_workers):
        from .load_both import load_both

        model, processor = load_both(
            source,
            template=loading.template,
            dtype=loading.dtype,
            device=loading.device,
            quantization=loading.quantization,
            cards=join_cards(loading.device),
        )
        with leading(model):
            yield model, processor


def _check_cards(kind: str, number: int, num_workers: int) -> None:
    wanted = number * num_workers
    found = wanted if kind == CPU else devices.num_devices(kind) or 0
    if found < wanted:
        several = f" for each of {num_workers} workers, {wanted} in all" if num_workers > 1 else ""
        hint = "take fewer cards" if found > 1 else "leave it out, or give --device cpu for processes without cards"
        raise ValueError(f"{OPTION} is {number}{several}, and this machine has {found} of kind {kind}: {hint}")


def _start(options: str, variables: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", f"{__package__}.card_follower", options]
    variables = {**os.environ, **variables, "PYTHONPATH": import_path()}
    # Its own session, so that a Ctrl-C in the terminal reaches the leader alone.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=variables, start_new_session=True
    )


def card_variables(kind: str, endpoints: list[str], rank: int, card: int) -> dict[str, str]:
    """Return what the launcher would set for a process. endpoints: of all processes, address:port; rank: its place."""
    number = str(len(endpoints))
    variables = {
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_TRAINERS_NUM": number,
        "PADDLE_LOCAL_SIZE": number,
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_NNODES": "1",
        CARD: str(card),
    }
    if kind == CPU:
        return {**variables, "PADDLE_DISTRI_BACKEND": "gloo"}
    variables[f"FLAGS_selected_{kind}s"] = str(card)
    return variables if kind == GPU else {**variables, "PADDLE_DISTRI_BACKEND": "xccl", XCCL_BACKEND: kind}


def free_endpoints(number: int) -> list[str]:
    """Return addresses of this machine with ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _watch(processes: list[subprocess.Popen], is_over: threading.Event) -> None:
    """End this process if a follower ends too early: it would wait for it forever."""
    while not is_over.wait(POLL):
        codes = [process.poll() for process in processes]
        if any(codes) and not is_over.is_set():  # one that has ended in order returns 0
            print_error(RuntimeError(f"a process of {OPTION} ended with code {codes}; its message is above"))
            for process in processes:
                _end(process, patience=0.0)
            os._exit(1)


def _end(process: subprocess.Popen, patience: float) -> None:
    """Wait for a process that is about to end, and kill it if it does not."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
