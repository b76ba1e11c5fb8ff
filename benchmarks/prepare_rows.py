"""Measure the tools for rows on a generated file: rows a second of processor time, peak memory, images a second.

    python benchmarks/prepare_rows.py [--rows 100000] [--images 1000] [--folder DIR]

The file is a list shaped as llava_v1_5_mix665k.json. It is also merged as scripts usually do it, all in memory.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from children import run_child
from prepare import MEGABYTE, run

FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K")
REPEATS = 3  # of the measurements by the clock, of which the shortest counts


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        return merge_whole(Path(sys.argv[2]), Path(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--folder", default=None, help="for the generated files (default: a temporary one)")
    arguments = parser.parse_args()
    from paddlemix.doctor.machine import processor

    print(processor())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure_tools(Path(folder), arguments.rows)
        measure_images(Path(folder), arguments.images)
    return 0


def measure_tools(folder: Path, num_rows: int) -> None:
    """Print the cost of each tool, and that of merging in memory."""
    path = make_list(folder / "mix.json", num_rows)
    print(f"a list of {path.stat().st_size / MEGABYTE:,.0f} MB with {num_rows:,} rows:", flush=True)
    tools = {
        "llava_instruct": ["--input_file", str(path)],
        "merge": [str(path), "--output", str(folder / "all.jsonl")],
        "sample": [str(path), "--output", str(folder / "some.jsonl"), "--num_rows", str(num_rows // 10)],
        "split": [str(path), "--val_share", "0.05"],
        "stats": [str(path)],
        "validate": [str(path), "--no_images"],
    }
    costs = {name: run("prepare", [name, *words]) for name, words in tools.items()}
    for name, cost in costs.items():
        print(f"  {name}: {num_rows / cost['processor']:,.0f} rows/s, peak {cost['peak'] / MEGABYTE:,.0f} MB")
    whole = run_child(__file__, "child", str(path), str(folder / "whole.jsonl"))
    assert (folder / "whole.jsonl").read_bytes() == (folder / "all.jsonl").read_bytes()
    peak = whole.peak_bytes
    print(
        f"  merge takes {costs['merge']['peak'] / peak:.3f} of the memory of all in memory ({peak / MEGABYTE:,.0f} MB)"
    )


def measure_images(folder: Path, num_images: int) -> None:
    """Print how many images a second are validated, by a clock, as several processes do it."""
    path = make_images(folder / "images", num_images)
    for name, options in (("decoded", []), ("headers only", ["--fast"])):
        seconds = {}
        for number in ("1", "2") * REPEATS:
            words = ["validate", str(path), "--image_dir", str(path.parent), "--workers", number, *options]
            seconds[number] = min(seconds.get(number, float("inf")), run("prepare", words)["seconds"])
        speeds = ", ".join(f"{num_images / found:,.0f} images/s with {number}" for number, found in seconds.items())
        print(f"validate, {name}, processes: {speeds}; ratio of times {seconds['2'] / seconds['1']:.2f}", flush=True)


def merge_whole(path: Path, output: Path) -> int:
    """Write the rows of a list, all in memory."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return 0


def make_list(path: Path, num_rows: int) -> Path:
    """Write rows of two questions each, one in 16 without an image."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            texts = [" ".join(chance.choices(words, k=length)) for length in (12, 30, 12, 30)]
            texts[0] = f"<image>\n{texts[0]}" if number % 16 else texts[0]
            turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
            row = {"id": str(number), "conversations": turns}
            row |= {"image": f"{FOLDERS[number % 5]}/{number // 3:012d}.jpg"} if number % 16 else {"model": ""}
            file.write(("[" if number == 0 else ",") + "\n" + json.dumps(row, indent=2))
        file.write("\n]\n")
    return path


def make_images(folder: Path, num_images: int) -> Path:
    """Write JPEG images of 640 x 480 px and a file of rows; return the file."""
    from PIL import Image

    folder.mkdir()
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((640, 480)))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(num_images):
            Image.fromarray(np.roll(large, number, axis=1)).save(folder / f"{number}.jpg", quality=90)
            file.write(json.dumps({"id": str(number), "image": f"{number}.jpg", "conversations": turns}) + "\n")
    return folder / "rows.jsonl"


if __name__ == "__main__":
    sys.exit(main())
