"""Train 300 steps on the shapes with 2% of the rows corrupted, and on the same rows whole: both must end as able.

    python benchmarks/bad_rows.py [--steps 300] [--share 0.02] [--folder DIR]

Starts from the bundled model with its head thrown off by noise, so that there is something to learn again. Corrupted
are a quarter each: a picture's file is broken, it is missing, a turn has a wrong role, an answer is empty. The run must
count each of them by its reason, and the accuracy on held-out pictures must not be more than 2 points below the
other run's. Exit code 1 where that is not so.
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
KINDS = ("unreadable_picture", "missing_picture", "wrong_role", "empty_answer")
NUM_EVAL, BATCH, NOISE, MARGIN = 100, 8, 1.0, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.02, help="of the rows that is corrupted")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary files go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-rows-", dir=arguments.folder) as home:
        return compare(Path(home), arguments.steps, arguments.share)


def compare(home: Path, num_steps: int, share: float) -> int:
    from paddlemix.examples.llava.tiny.make_data import write_data

    num_rows = num_steps * BATCH
    write_data(home / "data", num_rows, NUM_EVAL, seed=11)
    disturb(home / "start")
    rows = json.loads((home / "data/train.json").read_text())[:num_rows]
    (home / "data/clean.json").write_text(json.dumps(rows))
    expected = corrupt(rows, home / "data", share)
    (home / "data/corrupt.json").write_text(json.dumps(rows))
    before = accuracy(home / "start", home / "data")
    shares, counts = {}, {}
    for name in ("clean", "corrupt"):
        train(home, name, num_steps)
        results = json.loads((home / name / "train_results.json").read_text())
        counts[name] = {kind: results.get(f"train_skipped_{kind}", 0) for kind in KINDS}
        shares[name] = accuracy(home / name, home / "data")
        print(f"{name:8} accuracy {shares[name]:.1%}, skipped {counts[name]}", flush=True)
    print(f"before training {before:.1%}; corrupted {expected}")
    is_counted = counts["corrupt"] == expected and not any(counts["clean"].values())
    is_able = shares["corrupt"] >= shares["clean"] - MARGIN
    print(f"every corrupted row counted: {is_counted}; within {MARGIN:.0%} of the clean run: {is_able}")
    return 0 if is_counted and is_able else 1


def disturb(output: Path) -> None:
    """Write the bundled model with noise on its decoder's matrices."""
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
    """Spoil some rows that have a picture, in place; return how many for each reason."""
    with_picture = [row for row in rows if "image" in row]
    chosen = np.random.default_rng(5).permutation(len(with_picture))[: round(share * len(rows))]
    counts = dict.fromkeys(KINDS, 0)
    for number, index in enumerate(chosen):
        row, kind = with_picture[index], KINDS[number % len(KINDS)]
        counts[kind] += 1
        if kind == "unreadable_picture":
            broken = f"images/broken-{number}.png"
            (folder / broken).write_bytes((folder / row["image"]).read_bytes()[:120])
            row["image"] = broken
        elif kind == "missing_picture":
            row["image"] = "images/nowhere.png"
        elif kind == "wrong_role":
            row["conversations"][1]["from"] = "robot"
        else:
            row["conversations"][1]["value"] = ""
    return counts


def train(home: Path, name: str, num_steps: int) -> None:
    values = {
        "model_name_or_path": str(home / "start"),
        "dataset": str(home / f"data/{name}.json"),
        "output_dir": str(home / name),
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
    config = home / f"{name}-settings.json"
    config.write_text(json.dumps(values))
    subprocess.run([sys.executable, str(SCRIPT), str(config)], check=True, stdout=subprocess.DEVNULL)


def accuracy(model: Path, data: Path) -> float:
    from paddlemix.examples.llava.tiny.evaluate import answer
    from paddlemix.examples.llava.tiny.score import score

    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    return score(answer(model, data, rows, 64))["all"]["share"]


if __name__ == "__main__":
    sys.exit(main())
