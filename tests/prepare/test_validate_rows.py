"""validate finds every bad row and every bad image, says why, and gives the same report for any number of processes."""

from __future__ import annotations

import json

import pytest
from data_sets import row, write_image, write_lines, write_list
from prepared import prepare, rows_of


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("good.jpg", "ocr/1.png", "ocr/UPPER.JPG"):
        write_image(folder / name)
    cut = write_image(folder / "cut.jpg", (200, 200))
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / "page.jpg").write_text("<html>404</html>", encoding="utf-8")
    (folder / "empty.jpg").touch()
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    return folder


def turns(*pairs):
    return [{"from": role, "value": text} for role, text in pairs]


# id -> (row, kind, part of the reason)
BAD = {
    "missing": (row("missing", "no.jpg"), "missing_image", "not found"),
    "ending": (row("ending", "ocr/1.jpg"), "missing_image", "ocr/1.png"),
    "capitals": (row("capitals", "OCR/upper.jpg"), "missing_image", "ocr/UPPER.JPG"),
    "cut": (row("cut", "cut.jpg"), "unreadable_image", "broken or cut off"),
    "page": (row("page", "page.jpg"), "unreadable_image", "unknown format"),
    "empty": (row("empty", "empty.jpg"), "unreadable_image", "0 bytes"),
    "folder": (row("folder", "folder.jpg"), "missing_image", "not found"),
    "dangling": (row("dangling", "dangling.jpg"), "missing_image", "not found"),
    "outside": (row("outside", "../images/good.jpg"), "wrong_row", "outside of the image folder"),
    "elsewhere": (row("elsewhere", "/etc/hostname"), "wrong_row", "outside of the image folder"),
    "second": ({**row("second", ["good.jpg", "no.jpg"], "<image>")}, "missing_image", "no.jpg"),
    "answer": (row("answer", answer=" "), "empty_answer", "empty"),
    "number": ({"id": "number", "conversations": turns(("human", 3), ("gpt", "a"))}, "wrong_row", "string"),
    "odd": ({"id": "odd", "conversations": turns(("human", "q"))}, "wrong_role", ""),
    "role": ({"id": "role", "conversations": turns(("alien", "q"), ("gpt", "a"))}, "wrong_role", "alien"),
    "mark": ({"id": "mark", "conversations": turns(("human", "<image>"), ("gpt", "a"))}, "wrong_row", "1 <image>"),
    "mark in answer": (row("mark in answer", "good.jpg", answer="<image>"), "wrong_row", "in the text of 'assistant'"),
    "surrogate": (row("surrogate", question="\ud800"), "wrong_row", "surrogate"),
    "format": ({"id": "format", "text": "x"}, "unknown_format", "not a known row format"),
    "chinese": (
        {"id": "chinese", "图片": "good.jpg", "conversations": turns(("human", "<image>"), ("gpt", "a"))},
        "wrong_row",
        "unknown key '图片'; did you mean 'image'?",
    ),
    "video": ({**row("video"), "video": "a.mp4"}, "unsupported_key", "videos"),
}
GOOD = [
    row(1, "good.jpg"),
    row("text only"),
    {**row("two", ["good.jpg", "good.jpg"], "<image>")},
    row("address", "http://example.org/a.jpg"),
    {"id": "messages", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"id": "pairs", "conversations": [["q", "a"]]},
]


def test_every_bad_row_is_written_with_its_place_and_reason(images, tmp_path, capsys):
    rows = [*GOOD, *(bad for bad, _, _ in BAD.values())]
    file, output = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "bad.jsonl"
    assert prepare("validate", file, "--image_dir", images, "--bad_rows", output, "--workers", 1) == 1
    found = {one["id"]: one for one in rows_of(output)}
    assert list(found) == list(BAD)
    for number, (name, (_, kind, reason)) in enumerate(BAD.items(), len(GOOD) + 1):
        one = found[name]
        assert (one["kind"], one["row"], one["place"]) == (kind, number, f"rows.jsonl line {number}"), name
        assert reason in one["reason"], name
    printed = capsys.readouterr().out
    assert f"{len(rows)} rows: {len(GOOD)} good, {len(BAD)} bad" in printed
    assert "not opened: 1 image\n" in printed
    assert f"{output}: {len(BAD)} bad rows, with place and reason\n--output FILE writes the good rows\n" in printed
    assert "1: unknown format\n" in printed and "known formats:\n      {" in printed


def test_good_rows_give_exit_code_0_and_an_empty_file_of_bad_rows(images, tmp_path):
    file, output = write_list(tmp_path / "rows.json", GOOD), tmp_path / "bad.jsonl"
    words = ("validate", file, "--image_dir", images, "--bad_rows", output, "--workers", 1)
    assert prepare(*words) == 0
    assert output.read_bytes() == b""
    assert prepare(*words) == 0  # its own file is replaced


def test_report_and_file_are_the_same_for_any_number_of_processes(images, tmp_path, capsys):
    rows = [*GOOD, *(bad for bad, _, _ in BAD.values())] * 5
    files = [write_lines(tmp_path / "a.jsonl", rows), write_list(tmp_path / "b.json", rows[:13])]
    reports = []
    for workers in (1, 4):
        output = tmp_path / f"bad_{workers}.jsonl"
        words = ("--image_dir", images, "--bad_rows", output, "--workers", workers)
        assert prepare("validate", *files, *words) == 1
        reports.append((output.read_bytes(), capsys.readouterr().out.replace(output.name, "bad.jsonl")))
    assert reports[0] == reports[1]


def test_lines_that_are_not_json_are_bad_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    good = json.dumps(row("x")).encode()
    file.write_bytes(b"\n".join([good, b'{"cut', b'{"id": "\xff"}', b'{"a": 1, "a": 2}', b"[]", b"", good]))
    output = tmp_path / "bad.jsonl"
    assert prepare("validate", file, "--bad_rows", output, "--no_images") == 1
    assert [(one["kind"], one["row"]) for one in rows_of(output)] == [("not_json", number) for number in range(2, 6)]
    assert rows_of(output)[-1]["place"] == "rows.jsonl line 5"


def test_images_are_looked_up_in_several_folders_in_order(images, tmp_path):
    other = tmp_path / "other"
    write_image(other / "more.jpg")
    file = write_lines(tmp_path / "rows.jsonl", [row(1, "good.jpg"), row(2, "more.jpg")])
    assert prepare("validate", file, "--image_dir", images, other, "--workers", 1) == 0
    assert prepare("validate", file, "--image_dir", images, "--workers", 1) == 1


def test_fast_check_passes_cut_images_and_no_images_passes_missing_ones(images, tmp_path):
    cut = write_lines(tmp_path / "cut.jsonl", [row(1, "cut.jpg")])
    assert prepare("validate", cut, "--image_dir", images, "--workers", 1, "--fast") == 0
    missing = write_lines(tmp_path / "missing.jsonl", [row(1, "no.jpg")])
    assert prepare("validate", missing, "--image_dir", images, "--workers", 1, "--fast") == 1
    assert prepare("validate", missing, "--no_images") == 0


def test_file_without_rows_is_an_error_and_a_foreign_file_stays(tmp_path, capsys, caplog):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert prepare("validate", empty, "--no_images") == 1
    assert "no rows" in caplog.text
    foreign, good = write_lines(tmp_path / "mine.jsonl", [1]), write_lines(tmp_path / "good.jsonl", [row(1)])
    assert prepare("validate", good, "--no_images", "--bad_rows", foreign) == 1
    assert "not written by this command" in capsys.readouterr().err
    assert prepare("validate", good, "--no_images", "--bad_rows", good) == 1
    assert prepare("validate", good, "--no_images", "--bad_rows", foreign, "--overwrite") == 0


def test_images_are_found_beside_the_rows_from_any_folder_and_a_nearby_folder_is_named(images, tmp_path, capsys):
    beside, above = images / "rows.jsonl", write_lines(tmp_path / "rows.jsonl", [row(1, "good.jpg"), row(2, "no.jpg")])
    write_lines(beside, [row(1, "good.jpg")])
    assert prepare("validate", beside, "--workers", 1) == 0
    assert prepare("validate", beside, above, "--workers", 2) == 1
    printed = capsys.readouterr().out
    assert "3 rows: 1 good, 2 bad" in printed and f"it would be found with image_folder '{images}'" in printed


def test_outputs_named_json_are_json_lists(images, tmp_path):
    mixed, good, bad = [*GOOD, BAD["cut"][0]], tmp_path / "good.json", tmp_path / "bad.json"
    file = write_lines(tmp_path / "rows.jsonl", mixed)
    words = ("--image_dir", images, "--output", good, "--bad_rows", bad)
    for _ in range(2):  # its own files are replaced
        assert prepare("validate", file, *words) == 1
        assert json.loads(good.read_text()) == GOOD and [one["kind"] for one in json.loads(bad.read_text())] == [
            "unreadable_image"
        ]
    assert prepare("validate", good, "--image_dir", images, "--bad_rows", bad) == 0
    assert json.loads(bad.read_text()) == []
    assert prepare("merge", good, "--output", tmp_path / "all.json") == 0
    assert json.loads((tmp_path / "all.json").read_text()) == GOOD


@pytest.mark.parametrize("num_workers", [1, 2])
def test_good_rows_are_written_as_they_are_in_their_order(num_workers, images, tmp_path, capsys):
    bad = [row for row, _, _ in BAD.values()]
    mixed = [one for pair in zip(GOOD, bad, strict=False) for one in pair] + bad[len(GOOD) :]
    file, output = write_lines(tmp_path / "rows.jsonl", mixed), tmp_path / "good.jsonl"
    words = ("validate", file, "--image_dir", images, "--output", output, "--workers", num_workers)
    assert prepare(*words) == 1
    assert rows_of(output) == GOOD and list(rows_of(output)[0]) == list(GOOD[0])
    printed = capsys.readouterr().out
    assert f"{output}: {len(GOOD)} good rows, as they were\n" in printed and "dropped" not in printed
    assert "--bad_rows FILE lists the bad rows\n" in printed
    assert prepare("validate", output, "--image_dir", images) == 0
    assert prepare(*words, "--bad_rows", tmp_path / "bad.jsonl") == 1  # its own output is written again
    assert rows_of(output) == GOOD and len(rows_of(tmp_path / "bad.jsonl")) == len(BAD)


def test_outputs_of_validate_are_never_over_other_files(images, tmp_path, capsys):
    file, foreign = write_lines(tmp_path / "rows.jsonl", GOOD), write_lines(tmp_path / "mine.jsonl", GOOD[:1])
    for words in (("--output", foreign), ("--output", file), ("--output", "x.jsonl", "--bad_rows", "x.jsonl")):
        assert prepare("validate", file, "--image_dir", images, *words) == 1
    errors = capsys.readouterr().err
    assert "was not written by this command" in errors and "expected two files" in errors
    assert rows_of(file) == GOOD and rows_of(foreign) == GOOD[:1]


def test_without_a_good_row_no_file_of_good_rows_is_written(images, tmp_path, capsys):
    file, output = write_lines(tmp_path / "rows.jsonl", [BAD["cut"][0]]), tmp_path / "good.jsonl"
    assert prepare("validate", file, "--image_dir", images, "--output", output) == 1
    assert not output.exists() and f"{output}: not written, as there are no good rows" in capsys.readouterr().out


def test_a_good_row_that_json_cannot_hold_is_counted(tmp_path, capsys):
    odd = tmp_path / "rows.jsonl"
    odd.write_text(json.dumps({**row("a"), "id": "\ud800"}) + "\n" + json.dumps(row("b")) + "\n", encoding="utf-8")
    prepare("validate", odd, "--output", tmp_path / "good.jsonl")
    assert [one["id"] for one in rows_of(tmp_path / "good.jsonl")] == ["b"]
    assert "1 good row, as they were\n    dropped 1: half of a surrogate pair" in capsys.readouterr().out


def test_what_training_changes_in_good_rows_is_counted(images, tmp_path, capsys):
    early = {"id": "early", "conversations": turns(("gpt", "Hi"), ("human", "q"), ("gpt", "a"))}
    rows = [early, early, {**row("key"), "图片": "good.jpg"}, {**row("note", "good.jpg"), "note": "n"}]
    assert prepare("validate", write_lines(tmp_path / "rows.jsonl", rows), "--image_dir", images) == 0
    printed = capsys.readouterr().out
    assert "4 rows: 4 good, 0 bad; 1 image looked at\n" in printed and "FILE" not in printed
    for line in (
        "2: the answer before the first question is left out",
        "1: the key '图片' of the row is not used; did you mean 'image'?",
        "1: the key 'note' of the row is not used",
    ):
        assert f"  {line}" in printed, printed
