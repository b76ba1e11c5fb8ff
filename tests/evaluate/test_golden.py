"""The scorers give the golden values of the reference projects, and the check of them notices every wrong one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from check_golden import check, differences
from golden_cases import NotAtHand

ASSETS = Path(__file__).resolve().parents[1] / "assets"
GOLDEN = json.loads((ASSETS / "golden_scores.json").read_text(encoding="utf-8"))
# Cases about whole files of released answers, which are not part of this repository.
WHOLE_FILES = [name for name in GOLDEN["groups"] if name.endswith(("_end_to_end", "_llava15_13b"))]


@pytest.mark.parametrize("name", [name for name in GOLDEN["groups"] if name not in WHOLE_FILES])
def test_all_golden_cases_agree(name):
    group = GOLDEN["groups"][name]
    found = {number: list(differences(name, case, group, None)) for number, case in enumerate(group["cases"])}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


def test_only_cases_about_released_files_are_not_run():
    assert len(WHOLE_FILES) == 4
    for name in WHOLE_FILES:
        group = GOLDEN["groups"][name]
        with pytest.raises(NotAtHand):
            list(differences(name, group["cases"][0], group, None))


def changed(value):
    """Return a value of the same shape with something else in it."""
    if isinstance(value, dict):
        return {key: changed(one) for key, one in value.items()} if "raises" not in value else "no error"
    if isinstance(value, list):
        return [*map(changed, value[:1]), *value[1:]] if value else ["something"]
    if isinstance(value, bool):
        return not value
    return value + 0.001 if isinstance(value, int | float) else value + "x"


INPUTS = {"in", "pred", "answers", "answer", "prompt", "target", "text", "rows", "gold", "dataset", "refs", "hyp"}
INPUTS |= {"review", "name", "format", "file", "comment", "lmms_pred", "count"}


@pytest.mark.parametrize("name", [name for name in GOLDEN["groups"] if name not in WHOLE_FILES])
def test_every_changed_value_is_noticed(name):
    group = GOLDEN["groups"][name]
    for case in group["cases"]:
        for column in case.keys() - INPUTS:
            wrong = {**copy.deepcopy(case), column: changed(case[column])}
            assert list(differences(name, wrong, group, None)), (column, wrong)


def test_unknown_groups_and_columns_do_not_agree():
    groups = {
        "new_scorer": {"cases": [{"pred": "x"}]},
        "anls": {"cases": [{"pred": "x", "answers": ["x"], "new": 1.0}]},
    }
    printed, all_agree = check({"groups": groups}, None)
    assert not all_agree
    assert printed[:2] == ["new_scorer: 0 of 1 agree", "  case 0: nothing here compares 'new_scorer'"]
    assert printed[2] == "anls: 0 of 1 agree" and "Unknown rule 'new'" in printed[3]


def run(path: Path) -> subprocess.CompletedProcess:
    script = Path(__file__).with_name("check_golden.py")
    return subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=False)


def test_command_counts_cases_and_exits_with_1_only_if_one_differs(tmp_path):
    done = run(ASSETS / "golden_scores.json")
    assert done.returncode == 0, done.stderr
    assert "anls: 18 of 18 agree\n" in done.stdout
    golden = copy.deepcopy(GOLDEN)
    golden["groups"]["anls"]["cases"][2]["official"] = 0.9
    (tmp_path / "changed.json").write_text(json.dumps(golden), encoding="utf-8")
    done = run(tmp_path / "changed.json")
    assert done.returncode == 1
    assert "anls: 17 of 18 agree\n  case 2: official: expected 0.9, found 0.8\n" in done.stdout
