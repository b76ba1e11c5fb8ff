"""LLaVA's run_llava: one answer to one question, with images at the places that the question marks."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import pytest
import tiny_folder

from paddlemix import cli
from paddlemix.commands.llava_run import question_of
from paddlemix.generate.requests import Request, answer_all
from paddlemix.generate.sampling import SamplingParams

SCRIPT = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "eval" / "run_llava.py"
SAMPLING = SamplingParams(max_new_tokens=6)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def images(tmp_path):
    for seed in (0, 1):
        tiny_folder.save_image(tmp_path / f"{seed}.png", seed)
    return [str(tmp_path / f"{seed}.png") for seed in (0, 1)]


@pytest.fixture
def script(monkeypatch, capsys):
    """Return a function that runs the script and returns (exit code, output, errors)."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests

    def run(*words):
        fixed = ["--model-path", str(tiny_folder.folder("pad")), "--device", "cpu", "--temperature", "0"]
        monkeypatch.setattr(sys, "argv", ["run_llava", *fixed, "--max_new_tokens", "6", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def expected(parts, text, images):
    (answer,) = answer_all(*parts, [Request(text, images)], SAMPLING)
    return answer.text.strip() + "\n"


def test_the_answer_is_that_of_a_new_chat(parts, images, script):
    code, out, _ = script("--query", "What is this?", "--image-file", images[0])
    assert code == 0 and out == expected(parts, "What is this?", images[:1])


def test_several_images_are_separated_by_sep_and_placed_by_marks(parts, images, script):
    code, out, _ = script("--query", "Is <image> like <image>?", "--image-file", ";".join(images), "--sep", ";")
    assert code == 0 and out == expected(parts, ("Is ", " like ", "?"), images)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--query", "<image> <image>?"], "--query has 2 <image> and --image-file 1 images"),
        (["--query", "?", "--num_beams", "2"], "there is no beam search"),
    ],
)
def test_a_mistake_is_one_line(images, script, words, text):
    code, out, errors = script(*words, "--image-file", images[0])
    assert code == 1 and out == "" and text in errors and errors.count("\n") == 1


def test_a_question_without_marks_comes_after_its_images():
    assert question_of("Why?", 3) == "Why?" and question_of("<image>Why?", 1) == ("", "Why?")


def test_query_and_image_are_required(script):
    assert script("--query", "x")[0] == 2
    assert isinstance(cli.command_parser("llava-run"), argparse.ArgumentParser)
