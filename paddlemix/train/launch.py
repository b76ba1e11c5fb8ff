"""Start the processes of one machine in a run on several: `python -m paddlemix.train.launch --master ADDRESS:PORT ...`.

It is `paddle.distributed.launch`, with the same options, which by itself waits for ever for a machine that does not
come, for a port that another program has, and for an address that nobody has. Here each is one error, and so are cards
of `--npus` that are not there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import socket
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..accelerators import advice_for_missing, explained
from ..device import NPU, XCCL_BACKEND, num_devices
from ..terminal.log import notice, print_error
from .peer_guard import END_FILE, LOG_FOLDER

MODULE = "paddle.distributed.launch"
LOGS = "log"  # the launcher's default folder
PATIENCE = 600  # seconds for all machines to come
FIRST_NOTICE, NOTICES = 15, 60  # seconds until the first notice of machines that have not come, and between others
END_PATIENCE = 3.0  # seconds for the guards to say why a run has ended
# Variables that override the launcher's options.
VARIABLES = {
    "PADDLE_MASTER": "master",
    "PADDLE_NNODES": "nnodes",
    "PADDLE_JOB_ID": "job_id",
    "POD_IP": "host",
    LOG_FOLDER: "log_dir",
}


def main(argv: Sequence[str]) -> int:
    """Launch the processes of this machine; return the exit code. A mistake is one line and code 1."""
    try:
        options, words = read_options(argv)
        if options.npus is not None:
            choose_npus(options.npus)
        words = prepare(options, words)
    except ValueError as error:
        print_error(error)
        return 1
    end = Path(options.log_dir or LOGS) / END_FILE
    end.unlink(missing_ok=True)
    code = run_launcher(words)
    if code:
        report_end(end)
    return code if 0 <= code < 256 else 1


def read_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that matter here, and the words for Paddle's launcher. Raises ValueError."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in (("master", None), ("nnodes", "1"), ("host", None), ("job_id", "default"), ("log_dir", None)):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--npus")
    parser.add_argument("--join_timeout", type=float, default=PATIENCE)
    script = next((number for number, word in enumerate(argv) if word.endswith(".py")), len(argv))
    try:
        options, _ = parser.parse_known_args(list(argv[:script]))
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; the options are those of {MODULE}, and --join_timeout SECONDS") from None
    for variable, name in VARIABLES.items():
        setattr(options, name, os.environ.get(variable) or getattr(options, name))
    return options, without_option(argv, "--join_timeout", script)


def without_option(argv: Sequence[str], name: str, end: int) -> list[str]:
    """Return the words without an option and its value, which lies before the word of number end."""
    words = list(argv)
    for number in reversed(range(end)):
        if words[number] == name:
            del words[number : number + 2]
        elif words[number].startswith(f"{name}="):
            del words[number]
    return words


def choose_npus(cards: str) -> None:
    """Let Paddle's launcher use Ascend cards. cards: their numbers. Raises ValueError for cards that are not there."""
    os.environ.setdefault(XCCL_BACKEND, NPU)  # which the launcher of paddlepaddle 3.0 needs
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's import warns; nothing is compiled
    with explained():
        num_cards = num_devices(NPU)
    if not num_cards:
        raise ValueError(f"--npus is {cards}: this machine has no {NPU}; {advice_for_missing(NPU, num_cards)}")
    if os.environ.get("NPU_VISIBLE_DEVICES", "all") != "all":  # the launcher then takes these names
        return
    missing = [card for card in cards.split(",") if card.strip() not in map(str, range(num_cards))]
    if missing:
        raise ValueError(
            f"--npus is {cards}: card {', '.join(missing)} is not there; paddle finds {num_cards} here, and numbers "
            "start at 0 (ASCEND_RT_VISIBLE_DEVICES chooses which ones it finds)"
        )


def prepare(options: argparse.Namespace, words: list[str]) -> list[str]:
    """Check where the machines meet, and begin to wait for them; return the words for the launcher. Raises ValueError.

    The launcher takes the address of the machine's name as its own. That is often 127.0.1.1, which no other machine
    reaches. So `--host` is added: the address from which this machine reaches the first one. The logs of each
    machine go to a folder of that name, because the machines may share the current one.
    """
    num_nodes = options.nnodes
    if not options.master or options.master.startswith("etcd://") or not num_nodes.isdigit() or int(num_nodes) < 2:
        return words
    address, port = check_master(options.master)
    for name in ("no_proxy", "NO_PROXY"):  # the launchers speak HTTP to each other
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), address]))
    check_port(address, port)
    wait = Joining(f"{address}:{port}", options.job_id, int(num_nodes), options.join_timeout)
    threading.Thread(target=wait.run, daemon=True).start()
    added = [] if options.host else ["--host", own_address(address, port)]
    host = options.host or added[-1]
    if options.log_dir is None:
        options.log_dir = str(Path(LOGS, host))
        added += ["--log_dir", options.log_dir]
    return [*added, *words]


def check_master(master: str) -> tuple[str, int]:
    """Return address and port. Raises ValueError for anything else, and for names, which the launcher cannot use."""
    address, _, port = master.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"--master is {master!r}: expected the address of the first machine and a free port there, such as "
            "10.0.0.1:8090, the same on all machines"
        )
    try:
        known = socket.gethostbyname(address)
    except OSError as error:
        raise ValueError(f"--master is {master!r}: the address {address!r} is not known here ({error})") from None
    if known != address:
        raise ValueError(f"--master is {master!r}: the launcher compares addresses, so write --master {known}:{port}")
    return address, int(port)


def check_port(address: str, port: int) -> None:
    """Raise ValueError if a program other than a launcher answers at the port."""
    with socket.socket() as probe:
        probe.settimeout(5)
        if probe.connect_ex((address, port)):
            return  # the first machine has not started yet, or this is it
    if not stored(f"{address}:{port}", "healthy"):
        raise ValueError(
            f"port {port} of {address} is in use by another program: take another port for --master, the same on all "
            "machines"
        )


def stored(endpoint: str, path: str) -> dict:
    """Return the entries of a launcher's store below a path, an empty dict if there are none or no store."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError), opener.open(f"http://{endpoint}/{path}", timeout=5) as answer:
        found = json.loads(answer.read(1 << 20))
        return found if isinstance(found, dict) else {}
    return {}


def own_address(address: str, port: int) -> str:
    """Return this machine's address on the way to another one; nothing is sent. Raises ValueError without a way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError as error:
            raise ValueError(f"--master: this machine has no way to {address} ({error})") from None
        return probe.getsockname()[0]


class Joining:
    """Waits until all machines have come; ends the program if they do not come in time."""

    def __init__(self, endpoint: str, job: str, num_nodes: int, patience: float):
        self.endpoint, self.job, self.num_nodes, self.patience = endpoint, job, num_nodes, patience

    def run(self) -> None:
        """Return when all are there; exit with code 1 and a message if they are not in time."""
        begun, told = time.monotonic(), time.monotonic() + FIRST_NOTICE - NOTICES
        while (now := time.monotonic()) - begun < self.patience:
            if len(self.found()) >= self.num_nodes:
                return
            if now - told > NOTICES:
                told = now
                notice(self.text())
            time.sleep(0.5)
        print_error(ValueError(f"{self.text()}: gave up after {self.patience:g} seconds (--join_timeout)"))
        sys.stderr.flush()
        os._exit(1)  # the launcher waits in a loop of its own, and has started nothing yet

    def found(self) -> list[str]:
        """Return the addresses of the machines that have come."""
        entries = stored(self.endpoint, f"{self.job}/info/").values()
        candidates = (str(json.loads(entry).get("candidate", "")) for entry in entries)
        return [candidate.rpartition(":")[0] for candidate in candidates]

    def text(self) -> str:
        """Say who is missing, and what to do."""
        found = self.found()
        if not found:
            return (
                f"no launcher answers at {self.endpoint}, the --master: start the same command on that machine, and "
                "check the address and a firewall between"
            )
        return (
            f"{len(found)} of {self.num_nodes} machines have come to {self.endpoint} ({', '.join(found)}): start the "
            "same command, with the same --master and --nnodes, on the others"
        )


def run_launcher(words: Sequence[str]) -> int:
    """Run Paddle's launcher in this process; return its exit code."""
    sys.argv = [MODULE, *words]
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def report_end(path: Path) -> None:
    """Print why the run has ended, as the last line: the launcher prints only what a log held when it looked."""
    end = time.monotonic() + END_PATIENCE
    while time.monotonic() < end and not path.is_file():
        time.sleep(0.1)
    if path.is_file():
        print_error(ValueError(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
