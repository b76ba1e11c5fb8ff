"""Runs over data with bad rows finish, count every bad row once, and list it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny_folder
from gloo import check_connected, connected
from tiny_training import build, differing, settings, train, weights

from paddlemix.commands.train import main
from paddlemix.data import dataset as dataset_module
from paddlemix.data.bad_rows import BadRowPolicy
from paddlemix.data.row_note import RowNote
from paddlemix.train import tally as tally_module
from paddlemix.train.tally import FILE, RowTally, read_notes

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
SCRIPT = str(ROOT / "paddlemix/examples/llava/supervised_finetune.py")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(dataset_module, "RETRY_SECONDS", (0.0, 0.0))


def corrupt(path: Path, changes: dict[int, str]) -> Path:
    """Break rows of a file that write_rows wrote; numbers count from 1."""
    rows = json.loads(path.read_text())
    for number, kind in changes.items():
        row = rows[number - 1]
        row["id"] = f"id-{number}"
        if kind == "broken":
            (path.parent / row["image"][0]).write_bytes(b"\x89PNG\r\n")
        elif kind == "missing":
            row["image"][0] = "images/none.png"
        elif kind == "role":
            row["conversations"][0]["from"] = "robot"
        elif kind == "empty":
            row["conversations"][1]["value"] = " \n"
        elif kind == "long":
            row["conversations"][0]["value"] += " Why" * 300
        elif kind == "cut":
            row["conversations"] += [{"from": "human", "value": "Why" * 300}, {"from": "gpt", "value": "So."}]
    path.write_text(json.dumps(rows))
    return path


def records(folder: Path) -> list[dict]:
    path = folder / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def results(folder: Path, split: str = "train") -> dict:
    values = json.loads((folder / f"{split}_results.json").read_text())
    return {key: value for key, value in values.items() if "skipped" in key or "cut" in key or "dropped" in key}


ALL = {
    "train_skipped_rows": 4,
    "train_skipped_wrong_role": 1,
    "train_skipped_empty_answer": 1,
    "train_skipped_missing_image": 1,
    "train_skipped_unreadable_image": 1,
    "train_cut_rows": 0,
    "train_dropped_turns": 0,
}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_run_over_corrupted_rows_ends_and_counts_each_by_its_reason(num_workers, tmp_path, caplog):
    data = corrupt(
        tiny_folder.write_rows(tmp_path / "data", 200, kinds="1", is_answer_fixed=True),
        {17: "broken", 60: "missing", 101: "role", 155: "empty"},
    )
    values = settings(tmp_path, data, max_steps=20, per_device_train_batch_size=10, logging_steps=5)
    values |= {"on_bad_sample": "skip", "dataloader_num_workers": num_workers}
    trainer = train(values)
    assert trainer.state.global_step == 20 and len(trainer.recorder.losses) == 4
    found = {(record["row"], record["kind"], record["id"]) for record in records(tmp_path / "out")}
    kinds = {17: "unreadable_image", 60: "missing_image", 101: "wrong_role", 155: "empty_answer"}
    assert found == {(number, kind, f"id-{number}") for number, kind in kinds.items()}
    assert len(records(tmp_path / "out")) == 4
    assert all(record["file"] == str(data) and record["reason"] for record in records(tmp_path / "out"))
    assert results(tmp_path / "out") == ALL
    notices = [record.getMessage() for record in caplog.records if "skipped (" in record.getMessage()]
    assert "2 skipped (1 wrong role, 1 empty answer)" in notices[0] and "train: of 200 rows 4 skipped" in notices[-1]


SOME = {2: "missing", 5: "cut", 7: "long", 8: "broken"}
SOME_COUNTS = {
    "train_skipped_rows": 3,
    "train_skipped_missing_image": 1,
    "train_skipped_unreadable_image": 1,
    "train_skipped_too_long": 1,
    "train_cut_rows": 1,
    "train_dropped_turns": 1,
}


@pytest.fixture(scope="module")
def some_bad(tmp_path_factory):
    """Twelve rows with an image each, four of them bad or cut."""
    return corrupt(tiny_folder.write_rows(tmp_path_factory.mktemp("bad"), 12, kinds="1", is_answer_fixed=True), SOME)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_are_counted_once_in_several_epochs(num_workers, tmp_path, some_bad):
    train(settings(tmp_path, some_bad, max_steps=18, max_length=200, dataloader_num_workers=num_workers))
    assert results(tmp_path / "out") == SOME_COUNTS
    assert sorted(record["row"] for record in records(tmp_path / "out")) == [2, 7, 8]


# Six steps an epoch: inside the first epoch, at its end, and in the second.
@pytest.mark.parametrize("step", [2, 6, 8])
def test_resumed_run_equals_an_uninterrupted_one_where_rows_are_skipped(step, tmp_path, some_bad):
    shared = {"max_steps": 9, "save_strategy": "steps", "save_steps": 2, "max_length": 200}
    whole = train(settings(tmp_path / "whole", some_bad, **shared))
    for name in (f"checkpoint-{step}", FILE):
        source, target = tmp_path / "whole/out" / name, tmp_path / "rest/out" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    with (tmp_path / "rest/out" / FILE).open("a") as file:
        file.write('{"split": "train", "fi')  # left by a killed run
    rest = train(settings(tmp_path / "rest", some_bad, overwrite_output_dir=False, **shared))
    assert rest.recorder.losses == whole.recorder.losses[step:]
    assert not differing(weights(whole.llava), weights(rest.llava))
    assert results(tmp_path / "rest/out") == results(tmp_path / "whole/out") == SOME_COUNTS
    key = ["row", "kind", "reason"]
    listed = [
        sorted([record[name] for name in key] for record in records(tmp_path / folder / "out"))
        for folder in ("whole", "rest")
    ]
    assert listed[0] == listed[1] and len(listed[0]) == 3


def test_checkpoint_alone_carries_the_counts_on(tmp_path, some_bad):
    shared = {"max_steps": 8, "save_strategy": "steps", "save_steps": 6, "max_length": 200}
    train(settings(tmp_path / "whole", some_bad, **shared))
    checkpoint = str(tmp_path / "whole/out/checkpoint-6")
    train(settings(tmp_path / "rest", some_bad, resume_from_checkpoint=checkpoint, **shared))
    assert results(tmp_path / "rest/out") == SOME_COUNTS
    assert sorted(record["row"] for record in records(tmp_path / "rest/out")) == [2, 7, 8]


def test_new_run_starts_a_new_file(tmp_path, some_bad):
    for _ in range(2):
        train(settings(tmp_path, some_bad, max_steps=6, max_length=200))
    assert len(records(tmp_path / "out")) == 3


def test_two_processes_write_one_file_and_count_alike(tmp_path, some_bad):
    values = settings(tmp_path, some_bad, max_steps=6, max_length=200, logging_steps=2)
    values |= {"per_device_train_batch_size": 1}
    (tmp_path / "run.json").write_text(json.dumps(values))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # the launcher fails where it is empty
    command = [*LAUNCH, "--log_dir", str(tmp_path / "log"), SCRIPT, str(tmp_path / "run.json")]

    def launched(_: int) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        check_connected(done.stdout, *(log.read_text() for log in tmp_path.glob("log/workerlog.*")))
        return done

    done = connected(launched, tmp_path / "log")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert results(tmp_path / "out") == SOME_COUNTS
    assert sorted(record["row"] for record in records(tmp_path / "out")) == [2, 7, 8]


def run_main(tmp_path, values, capsys) -> tuple[int, list[str]]:
    (tmp_path / "run.json").write_text(json.dumps(values))
    code = main([str(tmp_path / "run.json")], script="supervised_finetune.py", template=None)
    return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_run_stops_with_one_line_when_more_rows_are_bad_than_allowed(num_workers, tmp_path, some_bad, capsys):
    values = settings(tmp_path, some_bad, max_steps=6, max_bad_samples=1, dataloader_num_workers=num_workers)
    code, errors = run_main(tmp_path, values | {"max_length": 200}, capsys)
    assert code == 1 and len(errors) == 1
    assert "2 of 12 rows are bad" in errors[0] and "max_bad_samples allows 1" in errors[0]
    assert {2, 8} <= {record["row"] for record in records(tmp_path / "out")}  # the rows to correct


def test_wrong_rows_stop_the_run_before_the_first_step_unless_skipping_is_set(tmp_path, capsys):
    data = corrupt(tiny_folder.write_rows(tmp_path / "data", 6, kinds="1"), {2: "role", 5: "empty"})
    code, errors = run_main(tmp_path, settings(tmp_path, data), capsys)
    assert code == 1 and f"{data}, row 2: " in errors[0] and "1 more rows are wrong (row 5" in errors[0]
    code, errors = run_main(tmp_path, settings(tmp_path, data, on_bad_sample="skip", max_bad_samples=1), capsys)
    assert code == 1 and "2 of 6 rows are bad (1 wrong role, 1 empty answer)" in errors[0]
    assert not (tmp_path / "out" / "train_results.json").exists()
    assert run_main(tmp_path, settings(tmp_path, data, on_bad_sample="skip", max_steps=1), capsys) == (0, [])


def test_missing_image_raises_if_the_settings_say_so(tmp_path, some_bad, capsys):
    code, errors = run_main(tmp_path, settings(tmp_path, some_bad, on_bad_sample="raise", max_steps=12), capsys)
    assert code == 1 and len(errors) == 1 and str(some_bad) in errors[0]


def test_other_values_of_the_settings_are_refused(tmp_path, some_bad, capsys):
    for changes, word in (({"on_bad_sample": "ignore"}, "raise or skip"), ({"max_bad_samples": -1}, "-1")):
        code, errors = run_main(tmp_path, settings(tmp_path, some_bad, **changes), capsys)
        assert code == 1 and word in errors[0]


def test_evaluation_counts_its_own_rows(tmp_path, some_bad):
    good = tiny_folder.write_rows(tmp_path / "good", 4, kinds="1")
    values = settings(tmp_path, {}, dataset={"train": str(good), "eval": str(some_bad)}, do_eval=True, max_steps=2)
    train({**values, "max_length": 200})
    assert results(tmp_path / "out")["train_skipped_rows"] == 0
    expected = {key.replace("train", "eval"): count for key, count in SOME_COUNTS.items()}
    assert results(tmp_path / "out", "eval") == expected
    assert Counter(record["split"] for record in records(tmp_path / "out")) == {"eval": 3}


def test_batches_have_the_same_rows_whether_or_not_some_are_bad(tmp_path, some_bad):
    made = build(settings(tmp_path, some_bad, max_length=200, per_device_train_batch_size=5))
    sizes = [len(batch["segment_ids"]) for batch in made.get_train_dataloader()]
    assert sizes == [5, 5, 2]


def note(number, kind="missing_image", split="train", **changes):
    return RowNote(split, "a.json", number, None, None, kind, "gone", **changes)


def test_tally_takes_every_row_once_from_all_processes(tmp_path, monkeypatch):
    tally = RowTally(tmp_path, BadRowPolicy("skip"))
    tally.expect("train", 100, [note(1, "wrong_role")])
    tally.begin(is_fresh=True)
    others = [[note(2), note(3, "cut", num_dropped_turns=2)], [note(2), note(1)]]
    monkeypatch.setattr(tally_module, "gather_notes", lambda notes, num_processes: [notes, *others])
    for _ in range(2):
        tally.count(is_reported=False)
    assert [record["row"] for record in records(tmp_path)] == [1, 2]
    counts = {"train_skipped_rows": 2, "train_skipped_wrong_role": 1, "train_skipped_missing_image": 1}
    assert tally.metrics("train") == {**counts, "train_cut_rows": 1, "train_dropped_turns": 2}
    assert "2 skipped (1 wrong role, 1 missing image), 1 cut" in tally.news() and tally.news() is None


def test_notes_with_any_text_are_written_and_read_back(tmp_path):
    tally = RowTally(tmp_path, BadRowPolicy("skip"))
    notes = [note(1), RowNote("train", "b\u2028.json", 2, 5, {"x": "\ud800"}, "too_long", "line\n\u2028 你好")]
    tally.add(notes)
    tally.write()
    assert read_notes(tmp_path / FILE) == notes


@pytest.mark.parametrize(
    "change", [{"split": []}, {"file": {}}, {"kind": "x"}, {"row": "1"}, {"reason": 5}, {"dropped_turns": "x"}]
)
def test_lines_that_no_run_wrote_are_ignored(tmp_path, change):
    line = {**note(1).as_dict(), **change}
    lines = [json.dumps(line), "[" * 100_000, "1" * 5000, json.dumps(note(2).as_dict())]
    (tmp_path / FILE).write_text("\n".join(lines))
    assert read_notes(tmp_path / FILE) == [note(2)]


def test_kinds_of_earlier_versions_are_read_as_those_of_now(tmp_path):
    values = RowNote("train", "a.json", 1, None, None, "missing_picture", "gone").as_dict()
    (tmp_path / "notes.jsonl").write_text(json.dumps(values) + "\n[]\n")
    assert [note.kind for note in read_notes(tmp_path / "notes.jsonl")] == ["missing_image"]
