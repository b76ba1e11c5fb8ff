"""A run gives the same bytes for any number of processes, again, and after it was killed anywhere."""

from __future__ import annotations

import os

import pytest
import raw_sets
from prepared import killed_at, prepare, rows_of, tree

from paddlemix.data.readers.files import scan_rows
from paddlemix.prepare import job

IMAGE_SETS = ("arxivcap", "synthdog_en")
# Where to kill: module and function, the numbers of its calls, and options. `replace` renames images, records, outputs.
LINES = ("paddlemix.prepare.row_files", "JsonLines.write")
ALONE, IN_PROCESSES = ["--workers", "1"], ["--workers", "2"]
KILLS = [
    *[("dvqa", "os", "replace", number, []) for number in (1, 2, 3)],
    *[("dvqa", *LINES, number, []) for number in (1, 5)],
    *[("arxivcap", "os", "replace", number, ALONE) for number in (1, 6, 7, 30)],
    ("arxivcap", *LINES, 30, IN_PROCESSES),
    ("arxivcap", "paddlemix.prepare.row_files", "ParquetRows.write", 3, ALONE),
    ("arxivcap", "shutil", "rmtree", 2, ALONE),
]


def times(folder) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", raw_sets.SETS)
def test_second_run_changes_nothing(tmp_path, capsys, name):
    words = raw_sets.SETS[name](tmp_path)
    assert prepare(*words) == 0
    before, printed = times(tmp_path), capsys.readouterr().out
    assert prepare(*words) == 0
    assert times(tmp_path) == before
    assert capsys.readouterr().out == printed.replace(": written\n", ": unchanged\n")


@pytest.mark.parametrize("name", raw_sets.SETS)
def test_overwriting_gives_the_same_bytes(tmp_path, name):
    words = raw_sets.SETS[name](tmp_path)
    assert prepare(*words) == 0
    before = tree(tmp_path)
    assert prepare(*words, "--overwrite") == 0
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_output_does_not_depend_on_the_number_of_processes(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(job, "FEW", 3)
    found = []
    for number in (1, 4):
        words = raw_sets.SETS[name](tmp_path / str(number))
        assert prepare(*words, "--workers", number) == 0
        printed = capsys.readouterr().out.replace(str(tmp_path / str(number)), "")
        found.append((tree(tmp_path / str(number)), printed))
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "module", "function", "number", "options"), KILLS)
def test_killed_run_shows_no_partial_output_and_the_next_one_gives_the_same_bytes(
    tmp_path, name, module, function, number, options
):
    whole, words = tmp_path / "whole", raw_sets.SETS[name](tmp_path / "killed")
    assert prepare(*raw_sets.SETS[name](whole), *options) == 0
    expected = tree(whole)
    assert killed_at(module, function, number, *words, *options)
    partial = {path: content for path, content in tree(tmp_path / "killed").items() if path in expected}
    assert partial == {path: expected[path] for path in partial} and len(partial) < len(expected)
    assert prepare(*words, *options) == 0
    assert tree(tmp_path / "killed") == expected
    assert [one.name for one in (tmp_path / "killed").rglob(".*") if not one.name.endswith(".prepared")] == []


def test_killed_run_over_earlier_output_is_finished_by_the_next(tmp_path):
    words = raw_sets.dvqa(tmp_path)
    assert prepare(*words) == 0
    source, output = tmp_path / "DVQA/qa/train_qa.json", tmp_path / "DVQA/qa/train_qa_llava_jsonl/train_qa_llava.jsonl"
    old = output.read_bytes()
    source.write_text(source.read_text(encoding="utf-8").replace("largest", "smallest"), encoding="utf-8")
    for number in (1, 2):  # before the record is renamed, and before the output is
        assert killed_at("os", "replace", number, *words)
        assert output.read_bytes() == old
    assert prepare(*words) == 0
    assert output.read_bytes() == old.replace(b"largest", b"smallest")


@pytest.mark.parametrize("change", ["content", "touch", "argument", "more files"])
def test_output_is_made_again_if_what_it_was_made_of_changes(tmp_path, capsys, change):
    words = raw_sets.chartqa(tmp_path)
    assert prepare(*words) == 0
    capsys.readouterr()
    path = tmp_path / "ChartQA_Dataset" / "train" / "train_human.json"
    if change == "content":
        raw_sets.write(path, [{"imgname": "x.png", "query": "Other?", "label": "1"}])
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "argument":
        words.append("--compat-ids")
    else:
        raw_sets.write(tmp_path / "ChartQA_Dataset/test/test_human.json", path.read_bytes())
    assert prepare(*words) == 0
    states = [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("/")]
    expected = {"content": (1, 4), "touch": (1, 4), "argument": (5, 0), "more files": (1, 5)}
    assert (states.count("written"), states.count("unchanged")) == expected[change]


@pytest.mark.parametrize("name", [name for name in raw_sets.SETS if name != "convert_json2jsonl"])
def test_rows_can_be_trained_on(tmp_path, name):
    assert prepare(*raw_sets.SETS[name](tmp_path)) == 0
    outputs = [path for path in tmp_path.rglob("*llava*.jsonl") if path.is_file()]
    outputs = outputs or list((tmp_path).rglob("llava_processed_jsons/*.jsonl"))
    assert outputs
    for path in outputs:
        rows, bad = scan_rows(path)
        assert bad == [] and len(rows) == len(rows_of(path))
        assert all(len(row.conversation.images) == 1 and row.format == "llava" for row in rows)
