"""Converters and tools for rows give the same bytes again, and after they were killed anywhere."""

from __future__ import annotations

import json
import pickle

import pytest
from data_sets import row, write_image, write_lines, write_list
from prepared import killed_at, prepare, tree

from paddlemix.prepare import job


def scienceqa(folder):
    problem = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None, "lecture": "L"}
    problems = {str(number): {**problem, "question": f"Q{number}?"} for number in range(40)}
    write_list(folder / "problems.json", problems)
    write_list(folder / "pid_splits.json", {"train": [*problems, "no"]})
    return ["scienceqa", "--base_dir", folder, "--split", "train"]


def mix(folder):
    write_image(folder / "data" / "coco" / "train2017" / "1.jpg")
    rows = [row(number, f"coco/train2017/{number % 2}.jpg") for number in range(40)]
    return write_list(folder / "mix.json", [*rows, row("text"), row("bad", answer="")])


def llava_instruct(folder):
    return ["llava_instruct", "--input_file", mix(folder), "--image_dir", folder / "data"]


def sharegpt4v(folder):
    return ["sharegpt4v", "--input_file", mix(folder)]


def refcoco(folder):
    (folder / "refcoco").mkdir(parents=True)
    sentences = [{"sent_id": number, "sent": f"phrase {number}", "raw": ""} for number in range(10)]
    one = {"ref_id": 1, "ann_id": 1, "image_id": 1, "sentences": sentences}
    (folder / "refcoco" / "refs(umd).p").write_bytes(pickle.dumps([{**one, "split": "train"}, {**one, "split": "val"}]))
    images, boxes = [{"id": 1, "width": 9, "height": 5}], [{"id": 1, "bbox": [0, 1, 2, 3]}]
    write_list(folder / "refcoco" / "instances.json", {"images": images, "annotations": boxes})
    return ["refcoco", "--dataset_folder", folder / "refcoco"]


def pairs2llava(folder):
    rows = [{"image": "a.jpg", "conversations": [[f"q{number}", "a"]]} for number in range(40)]
    return ["pairs2llava", "--input_file", write_list(folder / "pairs.json", rows)]


def llava2pairs(folder):
    return ["llava2pairs", "--input_file", mix(folder)]


def merge(folder):
    other = write_lines(folder / "other.jsonl", [row(f"o{number}") for number in range(40)])
    return ["merge", mix(folder), other, "--output", folder / "all.jsonl", "--image_prefix", "a", "b"]


def sample(folder):
    return ["sample", mix(folder), "--output", folder / "some.jsonl", "--num_rows", 20]


def split(folder):
    return ["split", mix(folder), "--val_share", 0.4, "--group", "row"]


def validate(folder):
    return ["validate", mix(folder), "--image_dir", folder / "data", "--bad_rows", folder / "bad.jsonl"]


TOOLS = [scienceqa, llava_instruct, sharegpt4v, refcoco, pairs2llava, llava2pairs, merge, sample, split, validate]
LOOK_AT_IMAGES = (llava_instruct, validate)  # which can change, so a second run makes their output again
LINES, LIST = ("paddlemix.prepare.row_files", "JsonLines.write"), ("paddlemix.prepare.row_files", "JsonList.write")
KILLS = [
    *[(tool, *LINES, 7) for tool in (scienceqa, llava_instruct, merge, split, validate)],
    *[(tool, "os", "replace", number) for tool in (llava_instruct, sample) for number in (1, 2)],
    *[(tool, "os", "replace", number) for tool in (refcoco, split) for number in (2, 3, 4)],
    (validate, "os", "replace", 2),
    (llava2pairs, *LIST, 7),
]


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_second_run_changes_nothing(tmp_path, capsys, tool):
    words = tool(tmp_path)
    code = prepare(*words)
    before, printed = tree(tmp_path), capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare(*words) == code == (1 if tool is validate else 0)
    assert tree(tmp_path) == before
    if tool not in LOOK_AT_IMAGES:
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
        printed = printed.replace(": written\n", ": unchanged\n")
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(("tool", "module", "function", "number"), KILLS)
def test_killed_tool_shows_no_partial_output_and_the_next_run_gives_the_same_bytes(
    tmp_path, tool, module, function, number
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code = prepare(*tool(whole))
    words, expected = tool(killed), tree(whole)
    assert killed_at(module, function, number, *words)
    left = {name: content for name, content in tree(killed).items() if name in expected}
    assert len(left) < len(expected)
    _check_equal(left, {name: expected[name] for name in left}, tmp_path)
    assert prepare(*words) == code
    _check_equal(tree(killed), expected, tmp_path)
    assert [one.name for one in killed.rglob(".*") if not one.name.endswith(".prepared")] == []


def _check_equal(found, expected, folder):
    """Compare files; those of bad rows name the folder that they are in."""
    assert found.keys() == expected.keys()
    for name, content in found.items():
        plain = [
            one.replace(str(folder / part).encode(), b"")
            for one, part in ((content, "killed"), (expected[name], "whole"))
        ]
        assert plain[0] == plain[1], name


def test_validate_gives_the_same_file_for_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "FEW", 3)
    words = validate(tmp_path)
    found = []
    for number in (1, 2, 4):
        assert prepare(*words, "--workers", number) == 1
        found.append((tmp_path / "bad.jsonl").read_bytes())
    assert found[0] == found[1] == found[2]
    assert [json.loads(line)["id"] for line in found[0].splitlines()] == [*range(0, 40, 2), "bad"]
