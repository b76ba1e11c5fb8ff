"""Read JSON and JSON lines files."""

from __future__ import annotations

import json
import logging

import pytest
from data_rows import read_rows

from paddlemix.conversation.messages import Message

ROWS = [{"conversations": [["Hi", f"你好 {number}"]]} for number in range(3)]


def answers(rows):
    return [row.conversation.messages[1].text for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_and_json_lines_read_the_same_with_and_without_bom(write, name, encoding):
    rows = read_rows(write(name, ROWS, encoding))
    assert answers(rows) == ["你好 0", "你好 1", "你好 2"]
    assert [row.number for row in rows] == [1, 2, 3]


def test_list_under_data_and_single_row_are_read(write):
    assert answers(read_rows(write("a.json", {"version": 1, "data": ROWS}))) == ["你好 0", "你好 1", "你好 2"]
    assert answers(read_rows(write("b.json", ROWS[1]))) == ["你好 1"]


def test_content_counts_if_the_suffix_is_wrong_and_that_is_logged(write, tmp_path, caplog):
    (tmp_path / "lines.json").write_bytes(write("a.jsonl", ROWS).read_bytes())
    (tmp_path / "list.jsonl").write_text(json.dumps(ROWS, indent=1))
    with caplog.at_level(logging.INFO):
        assert answers(read_rows(tmp_path / "lines.json")) == answers(read_rows(tmp_path / "list.jsonl"))
    assert "lines.json" in caplog.text and "JSON lines" in caplog.text
    assert "list.jsonl" in caplog.text and "JSON list" in caplog.text


def test_empty_lines_count_as_lines_but_not_as_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + json.dumps(ROWS[0]) + "\r\n\n" + json.dumps(ROWS[1]), encoding="utf-8")
    assert [(row.number, row.line) for row in read_rows(path)] == [(1, 2), (2, 4)]


def test_unicode_line_separators_stay_inside_a_row(write):
    rows = read_rows(write("a.jsonl", [{"conversations": [["Hi", "one\u2028two\x85three"]]}]))
    assert answers(rows) == ["one\u2028two\x85three"]


def test_formats_may_be_mixed_in_one_file(write):
    llava = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    rows = read_rows(write("a.json", [ROWS[0], llava]))
    assert rows[1].conversation.messages == (Message("user", "Hi"), Message("assistant", "Hello"))


def test_error_names_file_and_row_and_line(write, tmp_path):
    bad = {"conversations": [["Hi"]]}
    with pytest.raises(
        ValueError, match=r"a\.json, row 2: turn 1 of 'conversations'.*\[user, assistant\], found a list of 1"
    ):
        read_rows(write("a.json", [ROWS[0], bad]))
    path = tmp_path / "b.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n\n{json.dumps(bad)}\n")
    with pytest.raises(ValueError, match=r"b\.jsonl, row 2 \(line 3\): "):
        read_rows(path)
    path.write_text(f"{json.dumps(ROWS[0])}\n{{'conversations'\n")
    with pytest.raises(ValueError, match=r"b\.jsonl, row 2 \(line 2\): the line is not JSON"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"[{", ["not JSON", "line 1"]),
        ("a.json", b"", ["not JSON"]),
        ("a.json", b"[]", ["no rows"]),
        ("a.jsonl", b"\n \n", ["no rows"]),
        ("a.json", b'"text"', ["list of rows", "str"]),
        ("a.json", b'{"rows": []}', ["'rows'", '"data"']),
        ("a.json", "[]".encode("utf-16"), ["not UTF-8"]),
        ("a.jsonl", b"\xff\xfe{", ["not UTF-8"]),
        ("a.csv", b"a,b", ["'.csv'", ".json or .jsonl"]),
    ],
)
def test_file_without_rows_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_rows(tmp_path / name)
    assert all(word in str(caught.value) for word in [name, *words]), str(caught.value)


def test_missing_file_is_named_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"not found: {tmp_path / 'none.json'}"):
        read_rows("none.json")


def test_changes_are_logged_once_per_file_with_their_count(write, caplog):
    no_mark = {"image": "a.png", "conversations": [["Hi", "Hello"]]}
    with caplog.at_level(logging.WARNING):
        read_rows(write("a.json", [no_mark, ROWS[0], no_mark]))
    (record,) = caplog.records
    assert "a.json: 2 of 3 rows" in record.getMessage() and "<image>" in record.getMessage()


def test_rows_without_changes_log_nothing(write, caplog):
    with caplog.at_level(logging.WARNING):
        read_rows(write("a.json", ROWS))
    assert not caplog.records
