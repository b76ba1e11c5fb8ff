"""Output never replaces a foreign file, and a run that can write nothing says so."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import raw_sets
from prepared import ROOT, prepare, rows_of, tree

from paddlemix.prepare import paths, progress
from paddlemix.prepare.row import Note, Problem
from paddlemix.prepare.summary import MAX_REASONS, Summary


@pytest.fixture
def dvqa(tmp_path):
    """Return the command line, and the output for train_qa.json."""
    return raw_sets.dvqa(tmp_path), tmp_path / "DVQA/qa/train_qa_llava_jsonl/train_qa_llava.jsonl"


def test_foreign_file_is_not_replaced(dvqa, capsys):
    words, output = dvqa
    raw_sets.write(output, "mine")
    assert prepare(*words) == 1
    assert "was not written by this command: move it away, or replace it with --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert prepare(*words, "--overwrite") == 0
    assert len(rows_of(output)) == 3


def test_output_that_was_edited_is_not_replaced(dvqa, capsys):
    words, output = dvqa
    assert prepare(*words) == 0
    edited = output.read_bytes().replace(b"largest", b"biggest")
    output.write_bytes(edited)
    assert prepare(*words) == 1
    assert "was changed after this command wrote it" in capsys.readouterr().err and output.read_bytes() == edited


def test_output_that_was_removed_is_made_again(dvqa):
    words, output = dvqa
    assert prepare(*words) == 0
    content = output.read_bytes()
    output.unlink()
    assert prepare(*words) == 0
    assert output.read_bytes() == content


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"made_of": 1, "content": [], "replaces": null, "summary": 5}', b"\xff"]
)
def test_broken_record_makes_an_output_foreign(dvqa, content):
    words, output = dvqa
    assert prepare(*words) == 0
    output.with_name(f".{output.name}.prepared").write_bytes(content)
    assert prepare(*words) == 1
    assert prepare(*words, "--overwrite") == prepare(*words) == 0


def test_link_is_not_followed(dvqa, tmp_path, capsys):
    words, output = dvqa
    output.parent.mkdir()
    output.symlink_to(tmp_path / "target")
    for more in ([], ["--overwrite"]):
        assert prepare(*words, *more) == 1
        assert "is a link" in capsys.readouterr().err and not (tmp_path / "target").exists()


def test_input_is_not_replaced(tmp_path, capsys):
    raw_sets.write(tmp_path / "arxivqa_llava.jsonl", b'{"id": 1}')
    words = ("--input_file", tmp_path / "arxivqa_llava.jsonl", "--output_jsonl_dir", tmp_path)
    assert prepare("arxivqa", *words, "--overwrite") == 1
    assert "is an input: name another folder" in capsys.readouterr().err


def test_nothing_to_write_is_exit_code_1_and_no_file(tmp_path, capsys):
    raw_sets.write(tmp_path / "train_qa.json", [{"question": "?"}, 1])
    assert prepare("dvqa", "--dataset_folder", tmp_path) == 1
    assert "2 rows read, 0 written, 2 dropped" in capsys.readouterr().out
    assert list(tree(tmp_path)) == ["train_qa.json"]
    raw_sets.write(tmp_path / "train_qa.json", [])
    assert prepare("dvqa", "--dataset_folder", tmp_path) == 1


def test_empty_folder_is_one_error(tmp_path, capsys):
    assert prepare("dvqa", "--dataset_folder", tmp_path) == 1
    assert "expected train_qa.json, val_easy_qa.json, val_hard_qa.json" in capsys.readouterr().err


def test_damaged_list_leaves_no_output(dvqa, tmp_path, capsys):
    words, output = dvqa
    path = tmp_path / "DVQA/qa/train_qa.json"
    path.write_bytes(path.read_bytes()[:-30])
    assert prepare(*words) == 1
    error = capsys.readouterr().err
    assert "train_qa.json, row 4: the file ends there: it was cut, download it again" in error
    assert list(output.parent.glob("*")) == list(output.parent.glob(".*")) == []


def test_archive_is_read_and_output_goes_to_a_named_folder(tmp_path, capsys):
    words = raw_sets.dvqa(tmp_path)
    assert prepare(*words) == 0
    expected = {path: content for path, content in tree(tmp_path / "DVQA" / "qa").items() if path.endswith(".jsonl")}
    archive = shutil.make_archive(str(tmp_path / "dvqa"), "zip", tmp_path, "DVQA/qa")
    assert prepare("dvqa", "--dataset_folder", f"{archive}/DVQA/qa") == 1
    assert "is in an archive, where nothing can be written: name --output_dir" in capsys.readouterr().err
    target = tmp_path / "target"
    assert prepare("dvqa", "--dataset_folder", f"{archive}/DVQA/qa", "--output_dir", target) == 0
    assert tree(target) == expected
    assert prepare("dvqa", "--dataset_folder", f"{archive}/DVQA/no", "--output_dir", target) == 1
    assert "has no DVQA/no: it has DVQA" in capsys.readouterr().err


def test_ai2d_is_read_from_its_archive(tmp_path):
    words = raw_sets.ai2d(tmp_path)
    assert prepare(*words) == 0
    archive = shutil.make_archive(str(tmp_path / "ai2d-all"), "zip", tmp_path, "ai2d")
    words = ("--question_dir", f"{archive}/ai2d/questions", "--output_jsonl_dir", tmp_path / "zipped")
    assert prepare("ai2d", *words) == 0
    assert tree(tmp_path / "zipped") == tree(tmp_path / "out")


def test_damaged_file_in_an_archive_is_one_error(tmp_path, capsys):
    raw_sets.write(
        tmp_path / "q/1.png.json", json.dumps({"imageName": "1.png", "questions": {str(n): n for n in range(999)}})
    )
    archive = Path(shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path, "q"))
    content = bytearray(archive.read_bytes())
    middle = content.find(b"1.png.json") + 300
    content[middle : middle + 200] = bytes(200)
    archive.write_bytes(content)
    assert prepare("ai2d", "--question_dir", archive / "q", "--output_jsonl_dir", tmp_path) == 1
    assert "1.png.json is in a damaged archive" in capsys.readouterr().err


def test_file_that_is_read_whole_has_a_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "MAX_WHOLE", 1000)
    for name in ("problems.json", "pid_splits.json"):
        raw_sets.write(tmp_path / name, " " * 1001)
    assert prepare("scienceqa", "--base_dir", tmp_path, "--split", "train") == 1
    assert "has more than 1,000 bytes" in capsys.readouterr().err


def test_two_files_that_would_become_one_are_refused_before_anything_is_written(tmp_path, capsys):
    rows = json.dumps([{"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])
    files = [tmp_path / name for name in ("a/train.json", "b/train.json")]
    for file in files:
        raw_sets.write(file, rows)
    assert prepare("llava_pretrain", "--input_file", *files, "--output_dir", tmp_path / "out") == 1
    assert f"{files[0]} and {files[1]} would both become" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_of_another_command_is_not_replaced(tmp_path, capsys):
    rows = json.dumps([{"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])
    raw_sets.write(tmp_path / "rows.json", rows)
    words = (tmp_path / "rows.json", "--output", tmp_path / "out.jsonl")
    assert prepare("sample", *words, "--num_rows", 1) == 0
    assert prepare("merge", *words) == 1
    assert "was not written by this command" in capsys.readouterr().err
    assert prepare("sample", *words, "--num_rows", 1, "--seed", 1) == 0


def test_empty_path_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = raw_sets.ai2d(tmp_path)
    assert prepare(*words[:-1], "") == 1
    assert "the name of a file or folder is empty" in capsys.readouterr().err


def test_damaged_archive_is_one_error(tmp_path, capsys):
    raw_sets.write(tmp_path / "x.zip", b"PK\3\4 cut")
    assert prepare("dvqa", "--dataset_folder", tmp_path / "x.zip", "--output_dir", tmp_path) == 1
    assert "x.zip is not a complete zip archive" in capsys.readouterr().err


def test_summary_names_the_first_problems_and_limits_the_reasons():
    summary = Summary()
    for number in range(MAX_REASONS + 10):
        for _ in range(5):
            summary.add(Problem(f"reason {number}", f"text {number}", f"row {number}"))
    summary.add(Note("a note"))
    assert len(summary.dropped) == MAX_REASONS + 1 and summary.dropped["other reasons"] == 50
    assert summary.examples["reason 3"] == ["row 3: text 3"] * 3
    assert Summary.from_dict(json.loads(json.dumps(summary.as_dict()))) == summary


def test_rows_read_are_the_sum_of_those_written_dropped_and_not_taken(tmp_path, capsys):
    rows = [{"id": str(n), "conversations": [["q", "a"]]} for n in range(50)]
    raw_sets.write(tmp_path / "rows.json", json.dumps(rows))
    raw_sets.ai2d(tmp_path)
    prepare("ai2d", "--question_dir", tmp_path / "ai2d/questions", "--output_jsonl_dir", tmp_path / "out")
    prepare("sample", tmp_path / "rows.json", "--num_rows", 10, "--output", tmp_path / "out.jsonl")
    prepare("split", tmp_path / "rows.json", "--val_share", 0.3)
    pattern = r"(\d+) rows read, (\d+) written, (\d+) dropped(?:, (\d+) not taken)?"
    found = [[int(one or 0) for one in line] for line in re.findall(pattern, capsys.readouterr().out)]
    assert len(found) == 4 and [50, 10, 0, 40] in found
    assert all(read == sum(rest) for read, *rest in found)


def test_text_of_a_row_is_printed_visibly(tmp_path, capsys):
    raw_sets.write(
        tmp_path / "train_qa.json", [{"question": 1, "question_id": 1, "image": "\x1b[2J/../x", "answer": "1"}]
    )
    prepare("dvqa", "--dataset_folder", tmp_path)
    assert "\x1b" not in capsys.readouterr().out


def test_script_takes_the_command_lines_of_cerebras(tmp_path, monkeypatch, capsys):
    script = ROOT / "paddlemix" / "examples" / "llava" / "preprocess_dataset.py"
    monkeypatch.setattr(sys, "argv", [str(script), *raw_sets.ai2d(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        exec(compile(Path(script).read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "__main__"})
    assert ended.value.code == 0 and len(rows_of(tmp_path / "out" / "ai2d_llava.jsonl")) == 5


@pytest.mark.parametrize("name", raw_sets.SETS)
def test_help_of_a_converter_has_an_example_that_parses(name, capsys):
    from paddlemix.cli import command_parser
    from paddlemix.prepare.table import CONVERTERS

    with pytest.raises(SystemExit):
        prepare(name, "--help")
    printed = capsys.readouterr().out
    example = CONVERTERS[name].example
    assert f"paddlemix prepare {example}" in " ".join(printed.replace("\\\n", "").split())
    parsed = command_parser("prepare").parse(shlex.split(example))
    assert parsed.work.args[0].name == name
    assert {one.name for one in CONVERTERS[name].arguments} <= set(printed.replace(",", " ").split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dvq"], "unknown name dvq: did you mean dvqa?"),
        (["xyzzy"], "unknown name xyzzy; --help lists the names"),
        (["dvqa", "--dataset_foldr", "x"], "unknown option --dataset_foldr: did you mean --dataset_folder?"),
        (["dvqa"], "the following arguments are required: --dataset_folder"),
        ([], "the following arguments are required: NAME"),
        (["dvqa", "--dataset_folder", "x", "y"], "unrecognized arguments: y"),
    ],
)
def test_mistyped_command_line_names_the_nearest(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        prepare(*words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


def test_terminal_shows_rows_speed_and_time_left(tmp_path, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS", 0)
    assert prepare(*raw_sets.dvqa(tmp_path)) == 0
    shown = [line.strip() for line in re.split(r"[\r\n]", stream.getvalue()) if line.startswith("train_qa_llava")]
    assert len(shown) >= 4  # one for each row
    assert re.fullmatch(r"train_qa_llava\.jsonl: 100%\|.*\| 00:00<00:00, 4 rows, [\d,]+ rows/s", shown[-1])


def test_no_bar_is_shown_where_there_is_no_terminal(tmp_path, capsys):
    assert prepare(*raw_sets.dvqa(tmp_path)) == 0
    assert "%" not in capsys.readouterr().err
