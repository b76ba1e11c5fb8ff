"""The benchmark of large models runs on a tiny one, states broken bounds, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import children  # noqa: E402
import large_llava  # noqa: E402
import seven_b  # noqa: E402

from paddlemix import device_memory  # noqa: E402

NAME = "seven_b-tiny"


def run(folder, *words: str) -> int:
    return seven_b.main(["--shape", "tiny", "--folder", str(folder), *words])


def run_script(folder, *words: str) -> int:
    """Run the script in a small process: the peak of a child begins at the size of the process that forks it."""
    command = [sys.executable, str(ROOT / "benchmarks/seven_b.py"), "--shape", "tiny", "--folder", str(folder)]
    return subprocess.run([*command, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600).returncode


def test_the_steps_run_and_the_folder_is_removed(tmp_path, capfd):
    names = [name for name in seven_b.STEPS if name != "nf4"]  # which chat loads too
    assert run_script(tmp_path, "--steps", ",".join(names)) == 0
    text = capfd.readouterr().out
    lines = [line for line in text.splitlines() if re.search(r"GB +[0-9.]+ GB$", line)]
    assert [line.split("  ")[0] for line in lines] == [seven_b.STEPS[name].title for name in names]
    assert "stored as int8" in text and re.search(r"answer: \w+", text)
    assert re.search(r"\bloss +[0-9.]+", text)
    assert not list(tmp_path.iterdir())


def test_a_step_above_its_bound_ends_with_1(tmp_path, capfd, monkeypatch):
    step = dataclasses.replace(seven_b.STEPS["inspect"], bound=lambda shape: 10**6)
    monkeypatch.setitem(seven_b.STEPS, "inspect", step)
    assert run(tmp_path, "--steps", "inspect") == 1
    assert "above the bound" in capfd.readouterr().out


def test_a_kept_model_is_used_again(tmp_path, capfd):
    assert run_script(tmp_path, "--steps", "inspect", "--keep") == 0
    weights = next((tmp_path / NAME / "model").glob("*.safetensors"))
    before = weights.stat().st_mtime_ns
    assert run_script(tmp_path, "--steps", "inspect", "--keep") == 0
    assert weights.stat().st_mtime_ns == before
    assert capfd.readouterr().out.count("made ") == 1


def test_an_interrupted_run_removes_its_folder(tmp_path, monkeypatch):
    def interrupt(shape, names, folder):
        assert (folder / "model/config.json").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(seven_b, "run_steps", interrupt)
    assert run(tmp_path) == 130
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_of_the_script_stays(tmp_path, capfd):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "thesis.txt").write_text("mine")
    assert run(tmp_path) == 1
    assert "is not of this script" in capfd.readouterr().err
    assert (tmp_path / NAME / "thesis.txt").is_file()


def test_too_little_memory_and_disk_are_named_before_anything_is_written(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(device_memory, "memory_of", lambda device: (8 * 10**9, 2 * 10**9))
    assert run(tmp_path) == 1
    assert "2.0 GB of memory are free, and step lora" in capfd.readouterr().err
    monkeypatch.setattr(device_memory, "memory_of", lambda device: None)
    monkeypatch.setattr(seven_b.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8))
    assert run(tmp_path) == 1
    assert "0.1 GB are free" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_command_does_not_go_on(tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    script = "import sys, time, pathlib; time.sleep(4); pathlib.Path(sys.argv[1]).touch()"
    try:
        with pytest.raises(KeyboardInterrupt):
            children.run_command([sys.executable, "-c", script, str(tmp_path / "late")])
    finally:
        signal.signal(signal.SIGALRM, before)
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_shapes_have_the_parameters_of_the_released_models():
    # liuhaotian/llava-v1.5-7b and -13b: 6.74 and 13.02 billion of Vicuna, a projector, and 0.30 billion of CLIP-L.
    assert round(large_llava.stored_bytes("7b") / 2e9, 2) == 7.06
    assert round(large_llava.stored_bytes("13b") / 2e9, 2) == 13.35
    assert 0.16 < large_llava.kept_bytes("13b", "nf4") / large_llava.kept_bytes("13b", None) < 0.2
