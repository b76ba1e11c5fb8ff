"""Measure the converters of data sets on generated inputs: rows a second of processor time, and peak memory.

    python benchmarks/prepare.py [--megabytes 1000] [--images 400] [--folder DIR]

A DVQA-shaped list is also converted as scripts usually do it: the whole file to memory, then all rows, then the output.
Images are generated documents, as in SynthDog, whose JPEG content is saved as PNG files by 1 and 2 processes.
"""

from __future__ import annotations

import argparse
import filecmp
import io
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from children import KIBIBYTE, run_child

MEGABYTE = 10**6
QUESTION = "What is the value of the largest bar in the group that is number {number} from the left?"
OPTIONS = ["A) Ising", "B) Potts", "C) XY", "D) Heisenberg"]


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        return child(sys.argv[2], json.loads(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the list (default: 1000)")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--folder", default=None, help="for the generated files (default: a temporary one)")
    arguments = parser.parse_args()
    from paddlemix.doctor.machine import processor

    print(processor())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        compare_lists(Path(folder), arguments.megabytes * MEGABYTE)
        measure_lines(Path(folder), 200_000)
        measure_images(Path(folder) / "synthdog-en", arguments.images)
    return 0


def compare_lists(folder: Path, num_bytes: int) -> None:
    """Print the costs of converting a list row by row and in memory."""
    path, copy = folder / "train_qa.json", folder / "whole.jsonl"
    num_rows = make_list(path, num_bytes)
    print(f"DVQA, a list of {path.stat().st_size / MEGABYTE:,.0f} MB with {num_rows:,} rows:", flush=True)
    own = run("prepare", ["dvqa", "--dataset_folder", str(folder)])
    whole = run("whole", [str(path), str(copy)])
    output = folder / "train_qa_llava_jsonl" / "train_qa_llava.jsonl"
    assert filecmp.cmp(output, copy, shallow=False)
    for name, cost in (("paddlemix prepare", own), ("all in memory", whole)):
        print(f"  {name}: {num_rows / cost['processor']:,.0f} rows/s, peak {cost['peak'] / MEGABYTE:,.0f} MB")
    ratios = [own[name] / whole[name] for name in ("processor", "peak")]
    print(f"  processor time {ratios[0]:.2f} and memory {ratios[1]:.3f} of all in memory", flush=True)


def measure_lines(folder: Path, num_rows: int) -> None:
    """Print the cost of converting ArxivQA-shaped lines."""
    row = {
        "image": "images/0805.4509_1.jpg",
        "question": QUESTION,
        "options": OPTIONS,
        "rationale": "It says so. " * 20,
    }
    with (folder / "arxivqa.jsonl").open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            file.write(json.dumps({"id": f"q-{number}", "label": "ABCD"[number % 4], **row}) + "\n")
    words = ["--input_file", str(folder / "arxivqa.jsonl"), "--output_jsonl_dir", str(folder / "arxivqa")]
    cost = run("prepare", ["arxivqa", *words])
    speed, peak = num_rows / cost["processor"], cost["peak"] / MEGABYTE
    print(f"ArxivQA, {num_rows:,} lines: {speed:,.0f} rows/s, peak {peak:,.0f} MB", flush=True)


def measure_images(root: Path, num_images: int) -> None:
    """Print how fast images are written, by a clock, as several processes do it."""
    make_images(root / "data" / "train-00000-of-00001-a.parquet", num_images)
    costs = []
    for number in ("1", "2"):
        words = ["--input_dir", str(root / "data"), "--output_jsonl_dir", str(root / number), "--workers", number]
        words += ["--output_image_dir", str(root / number / "images"), "--image_prefix", "images"]
        costs.append(run("prepare", ["synthdog_en", *words, "--parquet_range", "0", "1"]))
        speed, peak = num_images / costs[-1]["seconds"], costs[-1]["peak"] / MEGABYTE
        print(
            f"SynthDog, {num_images} images, processes: {number}: {speed:,.1f} images/s, peak {peak:,.0f} MB",
            flush=True,
        )
    names = [str(one.relative_to(root / "1")) for one in (root / "1").rglob("*.png")]
    different = filecmp.cmpfiles(root / "1", root / "2", names, shallow=False)[1:]
    assert different == ([], []) and len(names) == num_images
    print(f"  2 processes take {costs[1]['seconds'] / costs[0]['seconds']:.2f} of the time of 1")


def run(kind: str, words: list[str]) -> dict[str, float]:
    """Run a conversion in its own process; return seconds by its clock and of the processor, and peak bytes."""
    return json.loads(run_child(__file__, "child", kind, json.dumps(words)).output.splitlines()[-1])


def child(kind: str, words: list[str]) -> int:
    """Convert, and print the cost as JSON."""
    from paddlemix.cli import main as command

    start, before = time.monotonic(), time.process_time()
    if kind == "whole":
        convert_whole(Path(words[0]), Path(words[1]))
    else:
        assert command(["prepare", *words]) == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    seconds, processor = time.monotonic() - start, time.process_time()
    print(json.dumps({"seconds": seconds, "processor": processor, "start": before, "peak": peak}))
    return 0


def convert_whole(path: Path, output: Path) -> None:
    """Convert DVQA's list without a check, all in memory."""
    rows = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        human = {"from": "human", "value": f"<image>\n{row['question']}"}
        turns = [human, {"from": "gpt", "value": row["answer"]}]
        rows.append({"id": str(row["question_id"]), "image": f"DVQA/images/{row['image']}", "conversations": turns})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    output.write_text(text, encoding="utf-8")


def make_list(path: Path, num_bytes: int) -> int:
    """Write a DVQA-shaped list of about a size; return the number of rows."""
    number, size = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < num_bytes:
            row = {"question": QUESTION.format(number=number), "question_id": number, "template_id": "data"}
            row |= {"answer": str(number % 100), "image": f"bar_train_{number // 12:08d}.png"}
            row["answer_bbox"] = [number % 400 + 0.5, 30, 40.25, 11]
            size += file.write(("[" if number == 0 else ", ") + json.dumps(row))
            number += 1
        file.write("]")
    return number


def make_images(path: Path, num_images: int) -> None:
    """Write a SynthDog-shaped Parquet file with images of 960 x 720 px."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    rows = []
    chance = np.random.default_rng(0)
    for number in range(num_images):
        buffer = io.BytesIO()
        small = Image.fromarray(chance.integers(0, 256, (36, 48, 3), dtype=np.uint8))
        small.resize((960, 720)).save(buffer, "JPEG")
        truth = json.dumps({"gt_parse": {"text_sequence": f"text {number}"}})
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "ground_truth": truth})
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


if __name__ == "__main__":
    sys.exit(main())
