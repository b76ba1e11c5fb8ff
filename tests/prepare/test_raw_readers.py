"""Raw files are read as what they are; a bad row is a problem, and a file of another kind one error."""

from __future__ import annotations

import gzip
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from paddlemix.prepare import readers
from paddlemix.prepare.paths import files_in, raw_folder, raw_path, size_of, stamp_of
from paddlemix.prepare.readers import json_lines, json_list, json_rows, parquet_rows
from paddlemix.prepare.row import RowError, file_name_of, is_number, llava_row, text_of


def made(path, content: bytes | str):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(rows) -> list:
    return [row.value for row in rows]


def test_list_and_lines_are_told_apart_by_their_first_character(tmp_path):
    expected = [{"a": 1}, {"a": 2}]
    for number, text in enumerate(('\ufeff [{"a": 1}, {"a": 2}]', '\n{"a": 1}\r\n\n{"a": 2}')):
        for name in (f"{number}.json", f"{number}.jsonl"):
            assert values(json_rows(made(tmp_path / name, text))) == expected


def test_places_are_named_and_shares_grow_to_1(tmp_path):
    rows = list(json_lines(made(tmp_path / "x.jsonl", '{"a": 1}\n\n{"a": 2}\n')))
    assert [row.where for row in rows] == ["x.jsonl line 1", "x.jsonl line 3"]
    assert 0 < rows[0].share < rows[1].share == 1
    rows = list(json_list(made(tmp_path / "x.json", '{"b": [1], "a": [5, 6], "c": {}}'), "a"))
    assert [(row.where, row.value) for row in rows] == [("x.json row 1", 5), ("x.json row 2", 6)]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (json_list, '{"a": 1}', "expected a JSON list"),
        (lambda path: json_list(path, "a"), "[1]", "expected an object with the list 'a'"),
        (lambda path: json_list(path, "a"), '{"b": 1}', "has no 'a': its keys are b"),
        (lambda path: json_list(path, "a"), '{"a": [1], "b"', "the file ends there"),
        (json_lines, '{"a": 1}'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (json_lines, gzip.compress(b'{"a": 1}', mtime=0), "is compressed by gzip: unpack it first"),
        (json_rows, '[{"a": 1}] [2]', "text follows the end"),
    ],
)
def test_file_of_another_kind_is_one_error(tmp_path, read, text, message):
    with pytest.raises(ValueError, match=message):
        list(read(made(tmp_path / "x", text)))


def test_line_without_end_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_VALUE", 100)
    with pytest.raises(ValueError, match="line 1 is longer than 100 bytes"):
        list(json_lines(made(tmp_path / "x", '{"a": "' + "b" * 200)))


def test_columns_of_parquet_are_read_by_name_in_any_number_of_batches(tmp_path):
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"b": list(range(50)), "a": [[{"c": f"é{n}"}] for n in range(50)], "unused": [None] * 50})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    rows = list(parquet_rows(path, ["a", "b"]))
    assert values(rows) == [{"a": [{"c": f"é{n}"}], "b": n} for n in range(50)]
    assert (rows[0].where, rows[49].where, rows[49].share) == ("x.parquet row 1", "x.parquet row 50", 1)
    with pytest.raises(ValueError, match="has no column 'd': it has b, a, unused"):
        list(parquet_rows(path, ["d"]))


def test_files_in_an_archive_read_as_those_in_a_folder(tmp_path):
    made(tmp_path / "x.json", "[1, 2]")
    table = pyarrow.table({"a": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x.json", "x.parquet"):
            archive.write(tmp_path / name, f"deep/in/{name}")
    folder = raw_folder(str(tmp_path / "z.zip" / "deep" / "in"))
    assert [path.name for path in files_in(folder, "")] == ["x.json", "x.parquet"]
    path = raw_path(str(tmp_path / "z.zip" / "deep" / "in" / "x.json"))
    assert list(json_rows(path)) == list(json_rows(tmp_path / "x.json"))
    assert size_of(path) == 6 and stamp_of(path)[:2] == ["x.json", 6]
    assert list(parquet_rows(folder / "x.parquet", ["a"])) == list(parquet_rows(tmp_path / "x.parquet", ["a"]))


def test_archive_with_a_damaged_file_is_one_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", "[" + ", ".join(map(str, range(5000))) + "]")
    content = bytearray((tmp_path / "z.zip").read_bytes())
    content[2000:2100] = bytes(100)
    (tmp_path / "z.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        list(json_rows(raw_path(str(tmp_path / "z.zip" / "x.json"))))


@pytest.mark.parametrize("name", ["../x", "a/../x", "/x", "a//x", "./x", "a\\x", "C:/x", "x/", "a\0b", "", 5.5j])
def test_path_that_leaves_the_image_folder_is_refused(name):
    with pytest.raises(RowError):
        file_name_of({"image": name}, "image")
    assert file_name_of({"image": "a/b c..png"}, "image") == "a/b c..png"


@pytest.mark.parametrize("value", [True, None, "", "  ", [], {}, float("nan"), float("inf")])
def test_value_that_is_no_text_is_refused(value):
    with pytest.raises(RowError):
        text_of({"a": value}, "a")
    assert not is_number(value)


def test_numbers_count_as_texts():
    assert [text_of({"a": value}, "a") for value in (9, 0, -1.5)] == ["9", "0", "-1.5"]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("a <image> b", "c", "<image> in a text"),
        ("a", "<image>", "<image> in a text"),
        ("a", " \n", "no answer"),
        ("\ud800", "b", "half of a surrogate pair"),
    ],
)
def test_row_that_cannot_be_trained_on_is_refused(question, answer, reason):
    with pytest.raises(RowError) as raised:
        llava_row("1", "x.png", question, answer)
    assert raised.value.problem.reason == reason
