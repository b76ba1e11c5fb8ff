"""Load a server with 64 clients, and compare it with one client at a time and with a plain loop over transformers.

    python benchmarks/serve_load.py [--seconds 60] [--clients 64] [--threads 2] [--folder DIR] [--without-peer]

The model is that of one_tile_llava.py with the bundled tokenizer, vicuna's template and float32. Clients hold
conversations of two turns, mixed: texts, one and two images of a dozen, greedy and seeded, streamed and not, 16 to 48
tokens. Our server has seen each image once before, as in a demonstration or in later turns. The peer is serve_peer.py
with the same weights: FastAPI and one `generate` at a time, to which the same clients talk. Only answers that are
complete at the end of a phase count. --seconds: of the phase with all clients; the others take a third of it each. Ends
with code 1 if any client saw an error other than a 429, if the server's memory exceeded what its options allow, or if
it still grew in the last third of five minutes or more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from one_tile_llava import model_folder as random_model
from peers import print_processor
from serve_clients import Tally, load, report, show_images

TINY = Path(__file__).parents[1] / "paddlemix" / "examples" / "llava" / "tiny" / "model"
START_SECONDS = 180
SAMPLE_SECONDS = 0.5
CACHE_GB = 1  # of 1 << 30 bytes for running answers, and as much again for what is kept of earlier ones
OTHER_GB = 0.75  # tiles of images (0.25), requests on their way, intermediate results, gaps between what is kept
MAX_GROWTH = 1.05  # of the memory, last third to second third of a long load
LONG_SECONDS = 300


def main() -> int:
    arguments = parse_arguments()
    print_processor(arguments)
    with model_folder(arguments.folder) as folder:
        all_clients, one_client, is_level = ours(folder, arguments)
        print(f"{arguments.clients} clients to one at a time, tokens/s: {ratio(all_clients, one_client)}")
        if not arguments.without_peer:
            peer = theirs(folder, arguments)
            print(f"ours to the plain loop over transformers, tokens/s: {ratio(all_clients, peer)}")
    return 0 if is_level and not (all_clients.errors or one_client.errors) else 1


def ratio(one: Tally, other: Tally) -> str:
    if not other.num_tokens:
        return "unknown, nothing was answered in time"
    return f"{one.rate / other.rate:.1f} ({one.processor_rate / other.processor_rate:.1f} by processor time)"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=None, help="of the model (default: a temporary one)")
    parser.add_argument("--without-peer", action="store_true", help="load our server only")
    return parser.parse_args()


@contextlib.contextmanager
def model_folder(folder: str | None) -> Iterator[str]:
    """Yield a folder with the model and the bundled tokenizer; one that exists is used as it is."""
    if folder and (Path(folder) / "tokenizer.model").exists():
        yield folder
        return
    with random_model(folder) as made:
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(TINY / name, made)
        yield made


def ours(folder: str, arguments: argparse.Namespace) -> tuple[Tally, Tally, bool]:
    """Return what all clients saw, what one saw, and whether memory stayed level."""
    options = ["--model-path", folder, "--conv-mode", "vicuna_v1", "--device", "cpu", "--dtype", "float32"]
    options += ["--cache-gb", str(CACHE_GB)]
    with server(["-m", "paddlemix", "serve", *options], arguments.threads, folder) as (port, process):
        empty = resident_bytes(process.pid)
        asyncio.run(show_images(port))
        with memory_of(process.pid) as samples:
            everyone = run(port, process.pid, arguments.clients, arguments.seconds, 1)
        report(f"ours, {arguments.clients} clients", everyone)
        alone = run(port, process.pid, 1, arguments.seconds / 3, 2)
        report("ours, one client", alone)
    return everyone, alone, is_level(samples, empty, arguments.seconds)


def theirs(folder: str, arguments: argparse.Namespace) -> Tally:
    script = str(Path(__file__).with_name("serve_peer.py"))
    options = ["--folder", folder, "--threads", str(arguments.threads)]
    with server([script, *options], arguments.threads, folder) as (port, process):
        run(port, process.pid, 1, arguments.seconds / 6, 0)  # a warm-up: it keeps no images
        tally = run(port, process.pid, arguments.clients, arguments.seconds / 3, 1)
        report(f"transformers, {arguments.clients} clients", tally)
    return tally


def run(port: int, pid: int, num_clients: int, seconds: float, seed: int) -> Tally:
    before = processor_seconds(pid)
    tally = asyncio.run(load(port, num_clients, seconds, seed))
    tally.processor_seconds = processor_seconds(pid) - before
    return tally


@contextlib.contextmanager
def server(command: list[str], threads: int, folder: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """Start a server and yield its port and process when it is ready. Raises SystemExit if it does not start.

    folder: for its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = Path(folder) / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)], env=environment, stdout=output, stderr=output
        )
    try:
        wait_until_ready(port, process, log)
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(port: int, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode}:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
            return
        time.sleep(0.3)
    raise SystemExit(f"the server was not ready after {START_SECONDS} s")


@contextlib.contextmanager
def memory_of(pid: int) -> Iterator[list[int]]:
    """Yield a list that gets the resident bytes of a process and its children while the block runs."""
    samples: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            samples.append(resident_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process and of all processes below it."""
    return sum(int(fields[21]) for fields in _family(pid)) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and of all processes below it."""
    return sum(int(fields[11]) + int(fields[12]) for fields in _family(pid)) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[list[str]]:
    """Return the fields after the name in /proc/N/stat, of a process and of all processes below it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # of a process that has just ended
            number, _, rest = path.read_text().partition(" (")
            found[int(number)] = rest.rpartition(")")[2].split()
    family = {pid}
    for _ in range(4):
        family |= {number for number, fields in found.items() if int(fields[1]) in family}
    return [found[number] for number in family if number in found]


def is_level(samples: list[int], empty: int, seconds: float) -> bool:
    """Print the memory of the load by thirds, and return whether it stayed within its bounds.

    empty: resident bytes before the first request.
    """
    third = len(samples) // 3
    parts = [statistics.median(samples[start * third : (start + 1) * third]) for start in range(3)]
    bound = empty + (2 * CACHE_GB + OTHER_GB) * (1 << 30)
    listed = ", ".join(f"{part / 1e9:.2f}" for part in parts)
    print(
        f"memory in GB: {empty / 1e9:.2f} before, {listed} by thirds of the load, {max(samples) / 1e9:.2f} at most, "
        f"{bound / 1e9:.2f} allowed"
    )
    is_growing = seconds >= LONG_SECONDS and parts[2] > MAX_GROWTH * parts[1]
    return max(samples) <= bound and not is_growing


if __name__ == "__main__":
    sys.exit(main())
