"""Measure how fast training starts from a token cache, compared with the raw file, and how fast the cache is made.

    python benchmarks/token_cache.py [--rows 200000] [--repeats 3] [--workers 1] [--packing]

Writes a file of short conversations, half of them with an image, and makes a cache of it. Then new processes train one
step of the tiny model, in turn from the raw file and from the cache. Seconds are from the end of the imports to the end
of the first step; the minimum of the repeats counts. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_IMAGES = 64
MAX_LENGTH = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes that make the cache")
    parser.add_argument("--packing", action="store_true", help="train packed rows, which needs all lengths")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return train_one_step(Path(arguments.child[0]), arguments.child[1], arguments.packing)
    from paddlemix.doctor.machine import processor

    print(processor())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(folder, arguments.rows)
        start = time.perf_counter()
        make_cache(folder, arguments.workers)
        seconds = time.perf_counter() - start
        num_bytes = sum(path.stat().st_size for path in (folder / "cache").iterdir())
        print(
            f"cache of {arguments.rows:,} rows: {seconds:.0f} s with {arguments.workers} worker(s), "
            f"{arguments.rows / seconds:,.0f} rows/s, {num_bytes / 1e6:.0f} MB "
            f"(raw file {(folder / 'rows.jsonl').stat().st_size / 1e6:.0f} MB)",
            flush=True,
        )
        compare(folder, arguments)
    return 0


def write_rows(folder: Path, num_rows: int) -> None:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        size = generator.integers(100, 600, 2)
        Image.fromarray(generator.integers(0, 256, [*size, 3], dtype=np.uint8)).save(folder / f"images/{number}.jpg")
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(num_rows):
            mark = "<image>\n" * (number % 2)
            turns = [(f"{mark}What color is shape {number}?", f"It is red, and it is number {number}.")]
            turns += [("How many shapes?", "There are two.")] * (number % 5)
            said = [
                {"from": role, "value": text}
                for pair in turns
                for role, text in zip(("human", "gpt"), pair, strict=True)
            ]
            row = {"id": str(number), "conversations": said}
            file.write(json.dumps({**row, "image": f"images/{number % NUM_IMAGES}.jpg"} if mark else row) + "\n")


def values_of(folder: Path, dataset, is_packed: bool) -> dict:
    from paddlemix.constants import BUNDLED_MODEL

    return {
        "model_name_or_path": BUNDLED_MODEL,
        "dataset": dataset,
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "max_length": MAX_LENGTH,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "packing": is_packed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "device": "cpu",
    }


def make_cache(folder: Path, num_workers: int) -> None:
    from paddlemix.cli import Parser
    from paddlemix.commands import prepare_cache

    config = folder / "config.json"
    config.write_text(json.dumps(values_of(folder, str(folder / "rows.jsonl"), False)))
    parser = Parser(prog="prepare cache")
    prepare_cache.add_arguments(parser)
    words = [str(config), "--output", str(folder / "cache"), "--workers", str(num_workers)]
    prepare_cache.run(parser.parse(words))


def compare(folder: Path, arguments) -> None:
    """Start training in turn from the raw file and from the cache, and print the ratio."""
    found: dict[str, list[tuple[float, float, float]]] = {"raw": [], "cache": []}
    for _ in range(arguments.repeats):
        for name in found:
            command = [sys.executable, __file__, "--child", str(folder), name, *["--packing"] * arguments.packing]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(tuple(map(float, done.stdout.splitlines()[-1].split())))
    best = {name: min(values) for name, values in found.items()}
    for name, (seconds, memory, loss) in best.items():
        print(f"first step from the {name}: {seconds:.1f} s, {memory:.0f} MB, loss {loss:.6f}")
    print(
        f"ratio {best['raw'][0] / best['cache'][0]:.1f} in time, {best['raw'][1] / best['cache'][1]:.1f} in memory; "
        f"losses {'equal' if best['raw'][2] == best['cache'][2] else 'DIFFER'}"
    )


def train_one_step(folder: Path, name: str, is_packed: bool) -> int:
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    from paddlemix.train import run
    from paddlemix.train.trainer import LlavaTrainer

    losses, step = [], LlavaTrainer.training_step

    def recorded(self, *values, **options):
        losses.append(float(step(self, *values, **options)))
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, losses[0])
        sys.stdout.flush()
        raise SystemExit(0)

    LlavaTrainer.training_step = recorded
    raw, cache = str(folder / "rows.jsonl"), {"name": "token_cache", "data_files": str(folder / "cache")}
    start = time.perf_counter()
    run.train(values_of(folder, raw if name == "raw" else cache, is_packed), template=None, config_folder=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
