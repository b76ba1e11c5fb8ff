"""The command line: the table of commands and what all of them have in common."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix import cli
from paddlemix.cli import COMMANDS, command_parser, main

ROOT = Path(__file__).parent.parent
NEEDS = {"doctor": ["x.json"], "inspect-data": ["x.json"], "inspect": ["x"], "merge": ["--lora_path", "x"]}


@pytest.fixture
def refused(monkeypatch, capsys):
    """Return a function that runs a command line which argparse refuses, and returns its error text."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: pytest.fail("the command started"))

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1].partition(" error: ")[2]

    return run


def loaded_by(*words: str) -> set[str]:
    """Run a command line that prints a help text, and return the modules that it loaded."""
    probe = (
        "import sys; from paddlemix.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert "usage: paddlemix" in done.stdout, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_wrong_commands_are_argparse_answers(capsys):
    for argv, code in ((["--help"], 0), (["chat", "--help"], 0), (["chta"], 2), (["chat", "--no-such"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == code
    assert "usage: paddlemix" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_a_module_with_options_and_a_function(name, capsys):
    module = importlib.import_module(f"paddlemix.commands.{name.replace('-', '_')}")
    assert module.__doc__.startswith(f"`paddlemix {name}`: ")
    assert command_parser(name).get_default("run") is module.run
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert f"usage: paddlemix {name} " in capsys.readouterr().out


def test_every_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, text in COMMANDS.items():
        assert f" {name} {text}" in printed


def test_help_loads_no_command_and_the_help_of_a_command_no_other():
    heavy = {"paddle", "paddlenlp", "numpy", "PIL", "requests"}
    loaded = loaded_by("--help")
    assert "paddlemix.cli" in loaded
    commands = {name.removeprefix("paddlemix.commands.") for name in loaded if name.startswith("paddlemix.commands.")}
    assert commands == {"parser", "completion"} and not loaded & heavy
    loaded = loaded_by("chat", "--help")
    commands = {name.removeprefix("paddlemix.commands.") for name in loaded if name.startswith("paddlemix.commands.")}
    assert commands == {"chat", "loading", "options", "card_options", "parser", "completion"} and not loaded & heavy


@pytest.mark.parametrize(("word", "near"), [("chta", "chat"), ("inspectdata", "inspect-data"), ("mrege", "merge")])
def test_mistyped_command_names_the_nearest(refused, word, near):
    assert refused(word, "--help") == f"unknown command {word}: did you mean {near}?"


def test_unknown_command_without_a_similar_one(refused):
    assert refused("xyzzy") == "unknown command xyzzy; --help lists the commands"


@pytest.mark.parametrize(
    ("name", "option", "near"),
    [
        ("chat", "--modle-path", "--model-path"),
        ("chat", "--image-flie=x.png", "--image-file"),
        ("merge", "--lora-pth", "--lora_path"),
        ("merge", "--overwirte", "--overwrite"),
        ("convert", "--verfiy", "--verify"),
        ("inspect", "--jsno", "--json"),
        ("compose", "--langauge-model", "--language-model"),
        ("extract-projector", "--ouptut", "--output"),
        ("apply-delta", "--dleta", "--delta"),
        ("make-delta", "--tagret", "--target"),
        ("bench", "--contxets", "--contexts"),
        ("doctor", "--no-trail", "--no-trial"),
        ("inspect-data", "--sampels", "--samples"),
    ],
)
def test_mistyped_option_names_the_nearest_before_a_missing_one_is_reported(refused, name, option, near):
    expected = f"unknown option {option.partition('=')[0]}: did you mean {near}?"
    assert refused(name, option) == refused(name, *NEEDS.get(name, ()), option) == expected


def test_mistyped_setting_names_the_nearest(capsys):
    pytest.importorskip("paddlenlp")
    for name in ("pretrain", "sft"):
        assert main([name, "--output_dri", "x"]) == 1
        assert "unknown setting 'output_dri': did you mean 'output_dir'?" in capsys.readouterr().err


def test_unknown_option_without_a_similar_one_and_extra_word_are_refused(refused):
    assert refused("chat", "--frobnicate", "1") == "unknown option --frobnicate; --help lists the options"
    assert refused("inspect", "a", "b") == "unrecognized arguments: b"


def test_options_may_be_spelled_with_hyphens_or_underscores():
    words = ["run", "pope", "--data_dir", "a", "--output", "b", "--no_ocr", "--batch_size=3"]
    found = command_parser("eval").parse(words)
    assert (found.data_dir, found.ocr, found.batch_size) == ("a", False, 3)
    found = command_parser("prepare").parse(["validate", "a_b.json", "--image-dir", "c_d", "--bad-rows=--e_f"])
    assert (found.image_folder, found.bad_rows, found.files) == (["c_d"], "--e_f", ["a_b.json"])
    assert command_parser("prepare").parse(["validate", "a.json", "--image-folder", "c_d"]).image_folder == ["c_d"]
    assert command_parser("sft").parse(["a.json", "--image_dir=c_d"]).settings == ["a.json", "--image-folder=c_d"]
    found = command_parser("merge").parse(["--lora-path", "a", "--merge-model-path", "b", "--model-name-or-path", "c"])
    assert (found.lora_path, found.merge_model_path, found.model_name_or_path) == ("a", "b", "c")
    found = command_parser("merge").parse(["--model-path", "a", "--model-base", "b", "--save-model-path", "c"])
    assert (found.model_name_or_path, found.model_base, found.merge_model_path) == ("a", "b", "c")
    found = command_parser("chat").parse(["--model_path", "a", "--load_in_4bit", "--image_file", "b"])
    assert (found.model_path, found.load_4bit, found.image_file) == ("a", True, ["b"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_both_spellings(name):
    parser = command_parser(name)
    for one in (parser, *parser.parts().values()):
        for option in one._option_string_actions:
            if option.startswith("--"):
                assert one._in_our_spelling([option.replace("-", "_").replace("__", "--", 1)]) == [option]
                assert one._in_our_spelling(["--" + option[2:].replace("_", "-") + "=a_b"])[0].endswith("=a_b")


def test_unambiguous_abbreviation_of_an_option_is_accepted(monkeypatch):
    parser = command_parser("chat")
    assert parser.parse(["--model-p", "x"]).model_path == "x"
    assert parser.parse(["--image-file=--x"]).image_file == ["--x"]


@pytest.mark.parametrize("words", [("-m", "paddlemix"), ("-m", "paddlemix.cli")])
def test_package_and_module_run_as_commands(words):
    done = subprocess.run([sys.executable, *words, "--version"], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "paddlemix", "")
