"""The soak scripts of benchmarks/ run, and detect mixtures of old and new files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import soak_mutations  # noqa: E402
from soak_states import differing, mixtures  # noqa: E402

OLD = {"out": "folder", "out/checkpoint-1": "folder", "out/checkpoint-1/complete": "m"}
OLD |= {f"out/checkpoint-1/{name}": f"old {name}" for name in ("model", "optimizer")}
NEW = {path: value.replace("old", "new") for path, value in OLD.items()}


def test_a_few_rounds_of_each_soak_find_no_failure():
    script = (
        "import sys, soak_kills, soak_inputs\n"
        "kills = soak_kills.main(['--kills', '3', '--only', 'full,to-hf'])\n"
        "sys.exit(kills or soak_inputs.main(['--rows', '40', '--configurations', '2']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "to-hf" in done.stdout and "configurations" in done.stdout


def found_mixtures(tmp_path, state):
    return mixtures(state, tmp_path, "out", {"old": OLD, "new": NEW})


def test_complete_checkpoint_with_old_and_new_files_is_reported(tmp_path):
    assert found_mixtures(tmp_path, OLD) == found_mixtures(tmp_path, NEW) == []
    mixed = {**OLD, "out/checkpoint-1/model": "new model"}
    assert found_mixtures(tmp_path, mixed) == ["mixture: model new, optimizer old"]
    unmarked = {path: value for path, value in mixed.items() if not path.endswith("complete")}
    assert found_mixtures(tmp_path, unmarked) == []
    stray = {**NEW, "out/checkpoint-1/.x.tmp": "x"}
    assert found_mixtures(tmp_path, stray) == ["mixture: .x.tmp unlike any, model new, optimizer new"]


def test_missing_left_over_and_changed_files_are_reported():
    state = {"a": "1", "b": "2", "d": "4"}
    expected = {"a": "1", "b": "3", "c": "5"}
    assert differing(state, expected) == ["c is missing", "d is left over", "b differs"]


def test_mutation_depends_only_on_the_seed_and_keeps_the_original_row():
    import numpy as np

    (row, *_), before = soak_mutations.good_rows(["a.png", "b.png"]), soak_mutations.good_rows(["a.png", "b.png"])
    drawn = [[soak_mutations.mutated_row(row, np.random.default_rng([seed, 1])) for seed in range(20)] for _ in "12"]
    assert repr(drawn[0]) == repr(drawn[1])
    assert row == before[0] and sum(one != row for one in drawn[0]) > 15
