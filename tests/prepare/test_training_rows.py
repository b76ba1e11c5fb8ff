"""Files of rows are read in every layout, by the rules of JSON that training has."""

from __future__ import annotations

import json

import pytest
from data_sets import row, write_lines, write_list

from paddlemix.prepare.row import Problem
from paddlemix.prepare.training_rows import row_paths, rows_of

ROWS = [row(1), row("水"), row("3", "a.jpg")]


def values(path):
    return [one.value for one in rows_of([path])]


def layouts(tmp_path):
    text = json.dumps(ROWS, ensure_ascii=False)
    lines = "\n".join(json.dumps(one) for one in ROWS)
    yield "a list", text
    yield "an indented list", json.dumps(ROWS, indent=2)
    yield "lines", lines
    yield "lines that end with CRLF, and empty lines", "\n\r\n" + lines.replace("\n", "\r\n\r\n") + "\n\n"
    yield "an object with the list in one line", json.dumps({"version": "1", "data": ROWS})
    yield "an object with the list over lines", json.dumps({"version": "1", "data": ROWS, "info": {}}, indent=1)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_layout_is_found_by_content_and_not_by_name(tmp_path, name, mark):
    for layout, text in layouts(tmp_path):
        (tmp_path / name).write_text(mark + text, encoding="utf-8", newline="")
        assert values(tmp_path / name) == ROWS, layout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id": 1, "id": 2}', "twice"),
        ('{"id": NaN}', "NaN"),
        ('{"id": 1', "not JSON"),
        ("[1]", "expected an object"),
        ('"text"', "expected an object"),
        ('{"id": ' + "9" * 400 + "}", "digits"),
    ],
)
def test_row_that_training_cannot_read_is_a_problem_and_the_others_stay(tmp_path, text, reason):
    good = json.dumps(ROWS[0])
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{good}\n{text}\n{good}\n", encoding="utf-8")
    first, bad, last = values(path)
    assert first == last == ROWS[0]
    assert isinstance(bad, Problem)
    assert reason in str(bad)


def test_repeated_key_in_a_list_leaves_the_other_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(f'[{json.dumps(ROWS[0])}, {{"id": 1, "id": 2}}, {json.dumps(ROWS[1])}]', encoding="utf-8")
    assert [isinstance(one, Problem) for one in values(path)] == [False, True, False]


def test_line_that_is_not_utf8_is_a_problem(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n' + json.dumps(ROWS[0]).encode() + b"\n")
    assert [isinstance(one, Problem) for one in values(path)] == [True, False]


def test_utf16_is_refused_by_name(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-16")
    with pytest.raises(ValueError, match="UTF-16: save it as UTF-8"):
        values(path)


def test_list_that_was_cut_is_refused_and_says_to_download_again(tmp_path):
    path = write_list(tmp_path / "rows.json", ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"row 3.*cut, download it again"):
        values(path)


def test_rows_of_several_files_follow_each_other(tmp_path):
    paths = [write_list(tmp_path / "a.json", ROWS[:2]), write_lines(tmp_path / "b.jsonl", ROWS[2:])]
    found = list(rows_of(paths))
    assert [one.value for one in found] == ROWS
    assert [one.where for one in found] == ["a.json row 1", "a.json row 2", "b.jsonl line 1"]
    assert [one.share for one in found] == sorted(one.share for one in found)


def test_file_that_is_named_twice_is_refused(tmp_path):
    path = write_list(tmp_path / "a.json", ROWS)
    with pytest.raises(ValueError, match="named twice"):
        row_paths([str(path), str(tmp_path / "." / "a.json")])
