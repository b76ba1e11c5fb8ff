"""A command line and a JSON file to raw values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paddlemix.train.config_file import FlagText, read_values


def write(folder, text: str) -> str:
    path = folder / "run.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_json_alone_keeps_its_types(tmp_path):
    path = write(tmp_path, '{"max_steps": 3, "lora": true, "learning_rate": 2e-5, "dataset": {"train": []}, "a": null}')
    expected = {"max_steps": 3, "lora": True, "learning_rate": 2e-5, "dataset": {"train": []}, "a": None}
    assert read_values([path]) == expected
    assert not any(isinstance(value, FlagText) for value in read_values([path]).values())


def test_file_with_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b'\xef\xbb\xbf{"lora": true}')
    assert read_values([str(path)]) == {"lora": True}


def test_flags_in_every_form():
    argv = "--max_steps 3 --output_dir=out --lora --bf16 false --lora-rank 4 --dataset a.json b.json --seed -1".split()
    assert read_values(argv) == {
        "max_steps": "3",
        "output_dir": "out",
        "lora": True,
        "bf16": "false",
        "lora_rank": "4",
        "dataset": ["a.json", "b.json"],
        "seed": "-1",
    }


def test_flag_values_are_marked_as_text_to_be_converted():
    values = read_values(["--max_steps", "3", "--dataset", "a", "b"])
    assert isinstance(values["max_steps"], FlagText)
    assert all(isinstance(item, FlagText) for item in values["dataset"])


def test_text_after_the_equals_sign_is_kept():
    assert read_values(["--output_dir=a=b", "--run_name=", "--mask=--x"]) == {
        "output_dir": "a=b",
        "run_name": "",
        "mask": "--x",
    }


def test_flags_override_the_file_and_leave_the_rest(tmp_path):
    path = write(tmp_path, '{"max_steps": 3, "learning_rate": 0.1}')
    assert read_values([path, "--max_steps", "9", "--lora"]) == {"max_steps": "9", "learning_rate": 0.1, "lora": True}


@pytest.mark.parametrize("argv", [["stray"], ["--output_dir=out", "stray"]])
def test_stray_word_is_named(tmp_path, argv):
    path = write(tmp_path, "{}")
    with pytest.raises(ValueError, match="'stray' is not a flag"):
        read_values([path, *argv])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json does not exist"):
        read_values([str(tmp_path / "gone.json")])


def test_broken_json_names_file_and_line(tmp_path):
    path = write(tmp_path, '{\n  "lora": true,\n  "max_steps": \n}')
    with pytest.raises(ValueError, match=r"run\.json is not valid JSON: .*line 4"):
        read_values([path])


@pytest.mark.parametrize(("text", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("3", "int")])
def test_json_that_is_no_object_is_refused(tmp_path, text, kind):
    with pytest.raises(ValueError, match=f"holds a JSON {kind}, expected an object"):
        read_values([write(tmp_path, text)])


def test_reading_values_imports_no_paddle():
    code = "import sys, paddlemix.train.config_file; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "paddlemix.train.config_file" in loaded
    assert not {"paddle", "paddlenlp"} & set(loaded)
