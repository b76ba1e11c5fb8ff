"""Train 300 steps on the shapes with 2% corrupted rows and with intact rows: both must reach the same accuracy.

    python benchmarks/bad_rows.py [--steps 300] [--share 0.02] [--folder DIR]

Starts from the bundled model with noise added to its decoder, so that there is something to relearn. The corruptions,
a quarter of the rows each: a broken image file, a missing image, a wrong role, an empty answer. The run must count each
corrupted row by its reason, and its accuracy on held-out images must be at most 2 points below the other run's.
Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "paddlemix/examples/llava/supervised_finetune.py"
BUNDLED = ROOT / "paddlemix/examples/llava/tiny/model"
KINDS = ("unreadable_image", "missing_image", "wrong_role", "empty_answer")
NUM_EVAL, BATCH, NOISE, MARGIN = 100, 8, 1.0, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.02, help="share of the rows to corrupt")
    parser.add_argument("--folder", type=Path, default=None, help="folder for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-rows-", dir=arguments.folder) as folder:
        return compare(Path(folder), arguments.steps, arguments.share)


def compare(folder: Path, num_steps: int, share: float) -> int:
    from paddlemix.examples.llava.tiny.make_data import write_data

    num_rows = num_steps * BATCH
    write_data(folder / "data", num_rows, NUM_EVAL, seed=11)
    disturb(folder / "start")
    rows = json.loads((folder / "data/train.json").read_text())[:num_rows]
    (folder / "data/clean.json").write_text(json.dumps(rows))
    expected = corrupt(rows, folder / "data", share)
    (folder / "data/corrupt.json").write_text(json.dumps(rows))
    before = accuracy(folder / "start", folder / "data")
    shares, counts = {}, {}
    for name in ("clean", "corrupt"):
        train(folder, name, num_steps)
        results = json.loads((folder / name / "train_results.json").read_text())
        counts[name] = {kind: results.get(f"train_skipped_{kind}", 0) for kind in KINDS}
        shares[name] = accuracy(folder / name, folder / "data")
        print(f"{name:8} accuracy {shares[name]:.1%}, skipped {counts[name]}", flush=True)
    print(f"before training {before:.1%}; corrupted rows {expected}")
    is_counted = counts["corrupt"] == expected and not any(counts["clean"].values())
    is_accurate = shares["corrupt"] >= shares["clean"] - MARGIN
    print(f"every corrupted row counted: {is_counted}; within {MARGIN:.0%} of the clean run: {is_accurate}")
    return 0 if is_counted and is_accurate else 1


def disturb(output: Path) -> None:
    """Write the bundled model with noise added to its decoder's matrices."""
    from paddlemix import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(BUNDLED, dtype="float32")
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.startswith("language_model.layers") and parameter.ndim == 2:
            values = parameter.numpy()
            noise = generator.standard_normal(values.shape).astype(np.float32) * values.std() * NOISE
            parameter.set_value(values + noise)
    model.save_pretrained(output)
    LlavaProcessor.from_pretrained(BUNDLED).save_pretrained(output)


def corrupt(rows: list[dict], folder: Path, share: float) -> dict[str, int]:
    """Corrupt some rows that have an image, in place; return the number for each reason."""
    with_image = [row for row in rows if "image" in row]
    chosen = np.random.default_rng(5).permutation(len(with_image))[: round(share * len(rows))]
    counts = dict.fromkeys(KINDS, 0)
    for number, index in enumerate(chosen):
        row, kind = with_image[index], KINDS[number % len(KINDS)]
        counts[kind] += 1
        if kind == "unreadable_image":
            broken = f"images/broken-{number}.png"
            (folder / broken).write_bytes((folder / row["image"]).read_bytes()[:120])
            row["image"] = broken
        elif kind == "missing_image":
            row["image"] = "images/nowhere.png"
        elif kind == "wrong_role":
            row["conversations"][1]["from"] = "robot"
        else:
            row["conversations"][1]["value"] = ""
    return counts


def train(folder: Path, name: str, num_steps: int) -> None:
    values = {
        "model_name_or_path": str(folder / "start"),
        "dataset": str(folder / f"data/{name}.json"),
        "output_dir": str(folder / name),
        "per_device_train_batch_size": BATCH,
        "max_steps": num_steps,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05,
        "logging_steps": 50,
        "save_strategy": "no",
        "report_to": "none",
        "do_train": True,
        "on_bad_sample": "skip",
        "max_bad_samples": 0.05,
        "device": "cpu",
    }
    config = folder / f"{name}-settings.json"
    config.write_text(json.dumps(values))
    subprocess.run([sys.executable, str(SCRIPT), str(config)], check=True, stdout=subprocess.DEVNULL)


def accuracy(model: Path, data: Path) -> float:
    from paddlemix.examples.llava.tiny.evaluate import answer
    from paddlemix.examples.llava.tiny.score import score

    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    return score(answer(model, data, rows, 64))["all"]["share"]


if __name__ == "__main__":
    sys.exit(main())
