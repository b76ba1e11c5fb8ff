"""Runs that wait for data end at once when interrupted; runs without their images end before the first step."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import tiny_folder
from slow_server import drip, running
from tiny_training import settings, train

from paddlemix.commands.train import how_to_resume, main
from paddlemix.doctor.run_checks import diagnose
from paddlemix.terminal.interrupts import kept_interrupts
from paddlemix.train.tally import FILE

BOUND = 10  # seconds, for a busy machine; the server goes on for twice as long


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """Return a function that writes rows whose images come from a server that never ends; it then sends a signal."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gc, "freeze", lambda: None)  # the test process continues
    number, sent = [signal.SIGINT], []

    def send():
        time.sleep(0.1)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number[0])

    def answers():
        if not sent:
            sent.append(None)
            threading.Thread(target=send, daemon=True).start()
        yield from drip(b"HTTP/1.1 200 OK\r\n", b"X")

    with running(answers) as address:
        path = tiny_folder.write_rows(tmp_path / "data", 8, kinds="1", is_answer_fixed=True)
        rows = json.loads(path.read_text())
        slow_rows = [{**row, "image": f"http://{address}/{place}.png"} for place, row in enumerate(rows)]
        (tmp_path / "data/slow.json").write_text(json.dumps(slow_rows))

        def run(values: dict, which: int = signal.SIGINT) -> tuple[int, float]:
            number[0] = which
            (tmp_path / "run.json").write_text(json.dumps(values))
            code = main([str(tmp_path / "run.json")], script="x", template=None)
            return code, time.monotonic() - sent[-1]

        yield run


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("splits", "changes"),
    [
        ({"train": "slow"}, {}),
        ({"train": "slow"}, {"packing": True}),
        ({"train": "train", "eval": "slow"}, {"do_eval": True, "max_steps": 1}),
    ],
    ids=["first batch", "lengths", "evaluation"],
)
def test_ctrl_c_ends_a_run_that_waits_for_data(splits, changes, num_workers, slow, tmp_path, capsys):
    files = {split: [{"data_files": str(tmp_path / f"data/{name}.json")}] for split, name in splits.items()}
    code, seconds = slow({**settings(tmp_path, ""), "dataset": files, "dataloader_num_workers": num_workers, **changes})
    assert code == 130 and seconds < BOUND
    message = f"stopped; there is no checkpoint in {tmp_path / 'out'}: the same command starts at step 1"
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert not multiprocessing.active_children()


def test_sigterm_before_the_first_step_ends_the_run_at_once(slow, tmp_path, capsys):
    code, seconds = slow(settings(tmp_path, tmp_path / "data/slow.json"), signal.SIGTERM)
    assert code == 143 and seconds < BOUND
    assert "stopped by SIGTERM before the first step" in capsys.readouterr().err


def test_sigterm_while_it_evaluates_ends_the_run_at_once(slow, tmp_path, capsys):
    files = {split: [{"data_files": str(tmp_path / "data/slow.json")}] for split in ("train", "eval")}
    before = signal.getsignal(signal.SIGTERM)
    code, seconds = slow(settings(tmp_path, "", dataset=files, do_train=False, do_eval=True), signal.SIGTERM)
    assert code == 143 and seconds < BOUND
    assert "stopped by SIGTERM" in capsys.readouterr().err and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", [ImportError, SystemError, RuntimeError, OSError])
def test_ctrl_c_that_became_another_error_is_raised(error):
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise error("initialization failed") from None


@pytest.fixture
def missing(tmp_path):
    """2,000 rows whose images are next to the folder that is named."""
    row = json.loads(tiny_folder.write_rows(tmp_path / "data", 1, kinds="1").read_text())[0]
    (tmp_path / "data/other").mkdir()
    (tmp_path / "data/missing.json").write_text(json.dumps([{**row, "image": "0-0.png"}] * 2000))
    return tmp_path / "data/missing.json"


@pytest.mark.parametrize(
    "changes",
    [{}, {"on_bad_sample": "skip"}, {"on_bad_sample": "raise"}, {"packing": True}, {"group_by_length": True}],
    ids=["default", "skip", "raise", "packing", "grouped"],
)
def test_run_without_its_images_ends_before_the_model_is_loaded(changes, missing, tmp_path, monkeypatch):
    monkeypatch.setattr("paddlemix.train.run.load_model", None)
    hint = f"it would be found with image_folder '{tmp_path}/data/images'"
    with pytest.raises(ValueError, match=rf"1,024 of the 1,024 rows .* of 2,000, cannot be used.* not found.*{hint}"):
        train(settings(tmp_path, missing, image_folder=str(tmp_path / "data/other"), **changes))
    notes = [json.loads(line) for line in (tmp_path / "out" / FILE).read_text().splitlines()]
    assert len(notes) == 1024 and {note["kind"] for note in notes} == {"missing_image"}


def test_doctor_reports_the_missing_images_as_a_failure(missing, tmp_path):
    checks = diagnose(settings(tmp_path, missing), template=None, config_folder=None, is_tried=False).checks
    (data,) = (check for check in checks if check.name == "data")
    assert data.status == "FAILED" and "1,024 of the 1,024 rows" in data.facts[-1]


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_counting_tokens_stops_when_too_many_rows_are_bad(policy, missing, tmp_path, monkeypatch):
    monkeypatch.setattr("paddlemix.train.data_sets.check_images", lambda *arguments: None)
    row = json.loads(missing.read_text())[0]
    good = {**row, "image": "images/0-0.png"}
    missing.write_text(json.dumps([good, row, good, good, good] * 200))
    expected = "11 of 1000 rows are bad" if policy == "skip" else r"row 2: image '0-0\.png' not found"
    with pytest.raises(ValueError, match=expected):
        train(settings(tmp_path, missing, packing=True, on_bad_sample=policy))
    assert len((tmp_path / "out" / FILE).read_text().splitlines()) == (11 if policy == "skip" else 1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "the same command resumes from there"),
        ({"overwrite_output_dir": True}, "(with overwrite_output_dir it starts at step 1); this one does:"),
        ({"resume_from_checkpoint": "old"}, "(it starts from resume_from_checkpoint); this one does:"),
    ],
)
def test_message_of_a_stop_names_the_last_checkpoint_and_how_to_resume(changes, text, tmp_path):
    (tmp_path / "out" / "checkpoint-7").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-7" / "complete").touch()
    message = how_to_resume({"output_dir": str(tmp_path / "out"), **changes}, "paddlemix sft", ["run 1.json"])
    assert message.startswith(f"; the last checkpoint is {tmp_path}/out/checkpoint-7") and text in message
    command = "\n  paddlemix sft 'run 1.json' --resume_from_checkpoint true"
    assert message.endswith(command) == bool(changes)
