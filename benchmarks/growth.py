"""Measure how the time and memory of a decoding step grow with the context, and those of a prefill with its length.

    python benchmarks/growth.py [--contexts 512 1024 2048 4096 8192] [--lengths 256 512 1024 2048 4096] [--rounds 5]

Plots the results to growth.png. Uses the decoder of small_llava.py in float32, each size in a separate process. Memory
is the peak growth of the process during the work, cache included. For decoding steps the cache is filled with zeros,
which take the same time as other values. Lines are fitted by least squares; exponents by least squares of the
logarithms.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from children import run_child
from peers import KIBIBYTE, parse, print_processor
from small_llava import load_ours, model_folder, text_ids

FIGURE = Path(__file__).parent / "growth.png"
STEPS = 16


def main() -> int:
    arguments = parse(__doc__, add_options)
    if arguments.work:
        return measure(arguments)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    print_processor(arguments)
    found = {}
    with model_folder(arguments.folder) as folder:
        for work, sizes in (("step", arguments.contexts), ("prefill", arguments.lengths)):
            shared = ["--folder", folder, "--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
            found[work] = [run_one(work, size, shared) for size in sizes]
    show("step", "context", arguments.contexts, found["step"])
    show("prefill", "length", arguments.lengths, found["prefill"])
    draw(arguments, found)
    seconds = [one["seconds"] for one in found["prefill"]]
    print(f"exponent of the prefill's time: {exponent(arguments.lengths, seconds):.2f}")
    return 0


def add_options(parser) -> None:
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="at least two")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="at least two")
    parser.add_argument("--figure", default=str(FIGURE), help="file to write (default: growth.png beside this script)")
    parser.add_argument("--work", choices=("step", "prefill"), default=None, help="measure only this, with --size")
    parser.add_argument("--size", type=int, default=512)


def run_one(work: str, size: int, shared: list[str]) -> dict:
    found = json.loads(run_child(__file__, "--work", work, "--size", str(size), *shared).output.splitlines()[-1])
    memory = found["bytes"] / 1e6
    print(f"{work:8} {size:6}: {found['seconds'] * 1e3:9.1f} ms, {memory:7.1f} MB", flush=True)
    return found


def measure(arguments) -> int:
    """Print the median seconds and the peak growth of the process in bytes."""
    model = load_ours(arguments.folder, arguments.threads)
    import paddle

    work = (step if arguments.work == "step" else prefill)(model, paddle, 16)  # load what the first use loads
    work()
    before, seconds = memory("VmRSS"), []
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak that loading reached
    work = (step if arguments.work == "step" else prefill)(model, paddle, arguments.size)
    for number in range(arguments.rounds + 1):
        start = time.perf_counter()
        num_done = work()
        if number:  # the first round is a warm-up
            seconds.append((time.perf_counter() - start) / num_done)
    print(json.dumps({"seconds": statistics.median(seconds), "bytes": memory("VmHWM") - before}))
    return 0


def memory(name: str) -> int:
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{name}:")[1].split()[0]) * KIBIBYTE


def step(model, paddle, context: int):
    """Return a function that runs STEPS decoding steps after a context and returns their number."""
    from paddlemix.models.fast_decoder import decoder_for

    language = model.language_model
    decoder, cache = decoder_for(language), language.new_cache(1, context + STEPS)

    def work() -> int:
        with paddle.no_grad():
            for number in range(STEPS):
                cache.lengths[0] = context + number
                embeds = language.embed_tokens(paddle.to_tensor([5]))
                decoder.logits(decoder.decode(embeds, cache)).numpy()
        return STEPS

    return work


def prefill(model, paddle, length: int):
    """Return a function that answers a prompt with one token and returns 1."""
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.sequence import Ending, Sequence

    def work() -> int:
        sequence = Sequence(text_ids(length), {}, SamplingParams(max_new_tokens=1), 1, Ending())
        Engine(model, prefix_bytes=0).run([sequence])
        return 1

    return work


def show(work: str, name: str, sizes: list[int], found: list[dict]) -> None:
    """Print the fits of time and memory."""
    for value, unit, scale in (("seconds", "ms", 1e3), ("bytes", "MB", 1e-6)):
        values = np.array([one[value] for one in found]) * scale
        slope, start, part = line(sizes, values)
        text = f"{start:.1f} {unit} + {slope * 1000:.2f} {unit} per 1,000, R^2 {part:.4f}"
        print(f"{work}: {value} against the {name}: {text}, exponent {exponent(sizes, values):.2f}")


def line(sizes: list[int], values: np.ndarray) -> tuple[float, float, float]:
    """Return slope, intercept and R^2 of a fitted line."""
    slope, start = np.polyfit(sizes, values, 1)
    rest = values - (slope * np.array(sizes) + start)
    return float(slope), float(start), float(1 - rest.var() / max(values.var(), 1e-30))


def exponent(sizes: list[int], values) -> float:
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def draw(arguments, found: dict[str, list[dict]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    plots = (("step", "context", arguments.contexts), ("prefill", "length", arguments.lengths))
    for column, (work, name, sizes) in enumerate(plots):
        for row, (value, unit, scale) in enumerate((("seconds", "ms", 1e3), ("bytes", "MB", 1e-6))):
            values = np.array([one[value] for one in found[work]]) * scale
            slope, start, _ = line(sizes, values)
            axis = axes[row][column]
            axis.plot(sizes, slope * np.array(sizes) + start, color="#9db8d9", linewidth=2, label="linear fit")
            axis.plot(sizes, values, "o", color="#1f5fa8", label=f"{work}, {unit}")
            axis.set(xlabel=f"{name}, tokens", ylabel=unit, ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
