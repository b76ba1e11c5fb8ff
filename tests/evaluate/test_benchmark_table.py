"""A table is read as text, image links are followed, and whatever is wrong with a row has a name."""

from __future__ import annotations

import pytest
from tables import BLUE, RED, base64_of, table_text, write_table

from paddlemix.evaluate.table import listed, read_table

COLUMNS = ["index", "question", "hint", "A", "B", "C", "answer", "image"]


RED_CELL = base64_of(RED)


def row(index="1", image=RED_CELL, **cells) -> dict:
    return {"index": index, "question": "Which?", "A": "cat", "B": "dog", "answer": "A", "image": image, **cells}


def read(tmp_path, rows, columns=COLUMNS):
    return read_table(write_table(tmp_path / "t.tsv", rows, columns))


@pytest.mark.parametrize("text", ["None", "N/A", "NA", "nan", "NULL", "TRUE", "1e5", "007", "#N/A", "-"])
def test_an_option_that_looks_like_a_missing_value_or_a_number_stays_text(tmp_path, text):
    table = read(tmp_path, [row(B=text)])
    assert table.rows[0].options == {"A": "cat", "B": text}


def test_only_empty_cells_are_absent(tmp_path):
    table = read(tmp_path, [row(B="", C="bird")])
    assert table.rows[0].options == {"A": "cat", "C": "bird"} and "hint" not in table.rows[0].cells


def test_quotes_tabs_and_line_breaks_in_cells_come_back_exactly(tmp_path):
    text = 'He said "no"\tand left.\r\nWhy?\u2028So.'
    table = read(tmp_path, [row(question=text, A='5" pipe'), row("2", base64_of(BLUE))])
    assert table.rows[0].cells["question"] == text and table.rows[0].options["A"] == '5" pipe'
    assert [one.images[0]() for one in table.rows] == [RED, BLUE]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, line_end, mark):
    path = tmp_path / "t.tsv"
    path.write_bytes(mark + table_text([row(), row("2", base64_of(BLUE))], COLUMNS, line_end).encode())
    table = read_table(path)
    assert table.columns == tuple(COLUMNS) and table.problems == ()
    assert [(one.index, one.line, one.images[0]()) for one in table.rows] == [("1", 2, RED), ("2", 3, BLUE)]


def test_image_references_are_followed_forwards_backwards_and_in_chains(tmp_path):
    rows = [row("3", "2"), row("2", "1"), row("1"), row("4", "1.0")]
    table = read(tmp_path, rows)
    assert table.problems == () and [one.index for one in table.rows] == ["3", "2", "1", "4"]
    assert {one.images[0]() for one in table.rows} == {RED}


def test_an_index_that_a_spreadsheet_wrote_is_a_whole_number(tmp_path):
    assert [one.index for one in read(tmp_path, [row("241.0"), row("1000241")]).rows] == ["241", "1000241"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (row("2", "77"), "index '77', where there is none"),
        (row("2", "2"), "index '2', where there is none"),
        (row("2", "x" * 70 + "!"), "not base64"),
        (row("2", base64_of(RED)[:-1]), "not base64"),
        (row("", base64_of(BLUE)), "no index"),
        (row("1"), "index 1 occurs before, in line 2"),
        (row("2", question=""), "no question"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path, bad, problem):
    table = read(tmp_path, [row(), bad, row("9")])
    assert [one.index for one in table.rows] == ["1", "9"]
    (found,) = table.problems
    assert problem in str(found) and "t.tsv line 3" in str(found)


def test_rows_that_refer_to_a_bad_row_are_named_too(tmp_path):
    table = read(tmp_path, [row("1", "%" * 80), row("2", "1"), row("3", "4"), row("4", "3")])
    assert table.rows == () and [one.id for one in table.problems] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"2\tWhich?\tA\n", "the row has 3 cells, expected 8"),
        (b'2\t"Which" one?\t\tcat\tdog\t\tA\tAAAA\n', "quotes of the row are broken"),
        (b"2\tWh\xffch?\t\tcat\tdog\t\tA\t\n", "not UTF-8"),
    ],
)
def test_a_damaged_line_is_named_and_the_next_one_read(tmp_path, line, problem):
    path = tmp_path / "t.tsv"
    path.write_bytes(table_text([row()], COLUMNS).encode() + line + b"5\tWhy?\t\tcat\tdog\t\tA\t1\n")
    table = read_table(path)
    assert [one.index for one in table.rows] == ["1", "5"] and table.rows[1].images[0]() == RED
    assert len(table.problems) == 1 and problem in str(table.problems[0])


def test_a_quote_that_is_never_closed_is_a_problem_of_its_row(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text(table_text([row()], COLUMNS) + '2\t"Which?\tA\n3\tand so on\n', encoding="utf-8")
    table = read_table(path)
    assert len(table.rows) == 1 and "t.tsv line 3" in str(table.problems[0])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"index,question,answer\n1,Which?,A\n", "'index,question,answer'"),
        (b"<!DOCTYPE html>\n<html>", "DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"question\tanswer\nWhich?\tA\n", "expected tab-separated names"),
        (b"index\tquestion\tA\tA\n", "columns A twice"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what_was_found(tmp_path, content, found):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.tsv") as error:
        read_table(path)
    assert found in str(error.value)


def test_a_missing_table_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_table(tmp_path / "none.tsv")


def test_a_cell_larger_than_the_limit_of_csv_is_read(tmp_path):
    large = bytes(range(256)) * 4000
    assert read(tmp_path, [row(image=base64_of(large))]).rows[0].images[0]() == large


def test_a_cell_with_several_images_gives_them_in_order(tmp_path):
    cell = str([base64_of(RED), base64_of(BLUE)])
    assert [image() for image in read(tmp_path, [row(image=cell)]).rows[0].images] == [RED, BLUE]
    broken = read(tmp_path, [row(image=str([base64_of(RED), "?"]))])
    assert "image 2 of 2 is not base64" in str(broken.problems[0])


def test_images_in_files_are_found_and_missing_ones_named_when_they_are_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(RED)
    rows = [
        {"index": "1", "question": "?", "image_path": "a.jpg"},
        {"index": "2", "question": "?", "image_path": "b.jpg"},
    ]
    table = read_table(write_table(tmp_path / "t.tsv", rows), [tmp_path / "images"])
    assert table.rows[0].images[0]() == tmp_path / "images" / "a.jpg"
    with pytest.raises(ValueError, match=r"there is no image .*b\.jpg"):
        table.rows[1].images[0]()


def test_a_row_without_an_image_is_kept_without_one(tmp_path):
    assert read(tmp_path, [row(image="")]).rows[0].images == ()


def test_an_image_of_a_table_that_was_changed_is_an_error(tmp_path):
    image = read(tmp_path, [row()]).rows[0].images[0]
    (tmp_path / "t.tsv").write_text("index\tquestion\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has changed"):
        image()


@pytest.mark.parametrize(
    ("cell", "texts"),
    [("['a', \"it's\"]", ["a", "it's"]), ("[1, 2]", ["1", "2"]), ("a", ["a"]), ("[a", ["[a"]), ("[x]", ["[x]"])],
)
def test_a_cell_that_is_a_python_list_is_its_texts_and_any_other_is_one(cell, texts):
    assert listed(cell) == texts
