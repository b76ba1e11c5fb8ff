"""Measure the memory of each of the processes that load one model together, relative to one that loads it alone.

    python benchmarks/parallel_memory.py [--size 1.0] [--degree 2] [--folder DIR]

Writes a random float16 model that consists almost entirely of the decoder's linear layers. Each process computes on the
CPU in float32, so that its parameters are in host memory. The peaks include the pages of the mapped file that a process
reads, and leave out what is resident before loading. On cards the parameters are in the cards' memory instead.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from children import run_child
from quantized_memory import make, resident


def main() -> int:
    arguments = parse_arguments()
    if arguments.role == "make":
        return make(arguments)
    if arguments.role == "load":
        return load(arguments)
    peaks = {}
    with tempfile.TemporaryDirectory(prefix="parallel-memory-", dir=arguments.folder) as folder:
        shared = ["--folder", folder, "--size", str(arguments.size)]
        run_child(__file__, "--role", "make", *shared)
        for degree in (1, arguments.degree):
            words = run_child(__file__, "--role", "load", "--degree", str(degree), *shared).output.split()
            stored, *peaks[degree] = map(float, words[-1 - degree :])
            shown = ", ".join(f"{peak / 1e6:.0f} MB" for peak in peaks[degree])
            print(f"degree {degree}: peak of each process {shown}; {stored / 1e6:.0f} MB of weights in the first one")
    from paddlemix.doctor.machine import processor

    ratio = max(peaks[arguments.degree]) / peaks[1][0]
    print(f"ratio of the largest peak, degree {arguments.degree} to 1: {ratio:.3f} ({processor()})")
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Load the model with its followers; print the bytes of this process's weights, and the peak of each process."""
    from paddlemix.checkpoints.card_processes import Loading, join_cards, leading, prepare, started
    from paddlemix.device import prepare_environment

    prepare(arguments.degree)
    prepare_environment("cpu")
    import paddle

    from paddlemix.checkpoints.load import load_model
    from paddlemix.checkpoints.source import open_source

    source = open_source(Path(arguments.folder) / "model")
    with started(arguments.degree, source, Loading(dtype="float32", device="cpu")):
        cards = join_cards("cpu")
        paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8])).numpy()  # load what the first product loads
        before = resident()
        model = load_model(source, dtype="float32", device="cpu", cards=cards)
        with leading(model):
            model.language_model.embed_tokens(paddle.to_tensor([[1]]))  # for which the followers must be ready
            stored = sum(4 * int(parameter.size) for parameter in model.parameters())
            print(stored, *(peak(process) - before for process in ("self", *followers())))
    return 0


def followers() -> list[str]:
    """Return the numbers of the processes that this one has started."""
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def peak(process: str) -> int:
    """Return the peak resident bytes of a process."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) << 10


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=float, default=1.0, help="minimum size of the float32 weights in gigabytes (10^9 bytes)"
    )
    parser.add_argument("--degree", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument(
        "--folder", default=None, help="parent folder for temporary files (default: the system's temporary folder)"
    )
    parser.add_argument("--role", choices=("measure", "make", "load"), default="measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
