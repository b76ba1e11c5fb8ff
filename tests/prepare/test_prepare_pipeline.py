"""From raw files to one checked file of rows, to a token cache, to training, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys

from data_sets import row, write_image, write_lines, write_list
from prepared import ROOT, rows_of
from tiny_training import settings, train

from paddlemix.data.readers.files import scan_rows


def paddlemix(*words, code=0):
    command = [sys.executable, "-m", "paddlemix", "prepare", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_raw_files_become_one_checked_file_that_training_reads(tmp_path):
    raw, images = tmp_path / "ChartQA_Dataset", tmp_path
    asked = [{"imgname": f"{number}.png", "query": f"How many {number}?", "label": str(number)} for number in range(12)]
    write_list(raw / "train" / "train_human.json", [*asked, {"imgname": "1.png", "query": "?", "label": ""}])
    write_list(raw / "val" / "val_augmented.json", asked[:2])
    for number in range(12):
        write_image(raw / "train" / "png" / f"{number}.png", (30 + number, 20))
    assert "13 rows read, 12 written, 1 dropped" in paddlemix("chartqa", "--dataset_folder", raw)
    charts = raw / "train" / "train_human_llava_jsonl" / "train_human_llava.jsonl"

    write_image(images / "coco" / "train2017" / "1.jpg")
    mix = write_list(tmp_path / "llava_v1_5_mix665k.json", [row(1, "coco/train2017/1.jpg"), row(2), row(3, "gone.jpg")])
    paddlemix("llava_instruct", "--input_file", mix, "--image_dir", images)
    instruct = tmp_path / "llava_v1_5_mix665k_llava.jsonl"
    pairs = write_lines(tmp_path / "own.jsonl", [{"image": "own/a.jpg", "conversations": [["What?", "A bus."]]}])
    write_image(images / "own" / "a.jpg")
    paddlemix("pairs2llava", "--input_file", pairs)

    (raw / "train" / "png" / "7.png").write_bytes(b"<html>")
    bad = tmp_path / "bad.jsonl"
    paddlemix("validate", charts, "--image_dir", images, "--bad_rows", bad, code=1)
    assert [one["id"] for one in rows_of(bad)] == ["train_human_7"]
    write_image(raw / "train" / "png" / "7.png")
    paddlemix("validate", charts, instruct, tmp_path / "own_llava.jsonl", "--image_dir", images, "--bad_rows", bad)
    assert rows_of(bad) == []

    merged = tmp_path / "all.jsonl"
    paddlemix("merge", charts, instruct, tmp_path / "own_llava.jsonl", "--output", merged)
    rows, notes = scan_rows(merged, folders=[str(images)])
    assert (len(rows), notes) == (15, [])
    assert [one.id for one in rows] == [*(f"train_human_{number}" for number in range(12)), "1", "2", "own_0"]
    assert rows[-1].conversation.messages[0].text == "<image>\nWhat?"
    assert json.loads(paddlemix("stats", merged, "--json"))["rows"] == 15
    paddlemix("split", merged, "--val_share", "0.3")
    parts = [rows_of(tmp_path / f"all_{part}.jsonl") for part in ("train", "val")]
    assert sorted(map(len, parts), reverse=True)[0] < sum(map(len, parts)) == 15
    check_cache(tmp_path, merged, images)


def check_cache(folder, rows, images):
    """Check that two training steps from the token cache of a file equal those from the file itself."""
    entry = {"name": "llava_dataset", "data_files": str(rows), "image_folder": str(images)}
    values = settings(folder, rows, dataset={"train": [entry]}, max_steps=2, max_length=400)
    config = folder / "config.json"
    config.write_text(json.dumps(values))
    printed = paddlemix("cache", config, "--output", folder / "cache", "--workers", "2")
    assert "15" in printed
    raw = train(values)
    cached = train({**values, "dataset": {"name": "token_cache", "data_files": str(folder / "cache")}})
    assert cached.recorder.losses == raw.recorder.losses and len(raw.recorder.losses) == 2
