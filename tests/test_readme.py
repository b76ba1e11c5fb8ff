"""The commands of README run as written, its two languages say the same, and what CONTRIBUTING names exists."""

import re
import shlex

import pytest
from documentation import CHINESE, ENGLISH, READMES, ROOT, block_with, blocks, linked_folder, run

from paddlemix.cli import command_parser
from paddlemix.evaluate.tasks import TASKS

TALK = "How many shapes are there?\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return linked_folder(tmp_path_factory.mktemp("readme"))


def test_training_commands_run_and_the_merged_model_chats(workspace):
    output = run(block_with("pretrain.py", READMES[0]), workspace, input=TALK)
    assert "ASSISTANT: The number of shapes is " in output
    assert (workspace / "work_dirs/example_merged/model.safetensors").is_file()
    assert_training_is_short_and_learns(output)


def assert_training_is_short_and_learns(output: str) -> None:
    """Check the screens of both stages: few lines, no library's, and losses that fall."""
    screens = re.findall(r"^settings that are not the default:$.*?^next$", output, re.MULTILINE | re.DOTALL)
    assert len(screens) == 2 and all(screen.count("\n") <= 40 for screen in screens)
    assert not re.search(r"DEBUG|INFO|distutils|jieba", "".join(screens))
    ends = [
        re.search(r"^loss +([\d.]+) at step \d+, best .* last ([\d.]+)$", screen, re.MULTILINE) for screen in screens
    ]
    assert all(float(end[2]) < 0.6 * float(end[1]) for end in ends)
    scores = [float(value) for value in re.findall(r"^evaluation after .*, custom ([\d.]+)$", output, re.MULTILINE)]
    assert scores[-1] > scores[0]


def test_answers_that_are_shown_are_those_of_the_bundled_model(workspace):
    (shown,) = (block for block in blocks(READMES[0], "") if block.startswith("USER: "))
    questions = "".join(f"{line}\n" for line in re.findall(r"^USER: (.+)", shown, re.MULTILINE))
    output = run(block_with("paddlemix chat", READMES[0]).strip() + " --temperature 0", workspace, input=questions)
    answers = re.findall(r"^ASSISTANT: .+", shown, re.MULTILINE)
    assert len(answers) >= 3 and all(answer in output for answer in answers)


def test_commands_that_convert_run(workspace):
    output = run(block_with("paddlemix convert", READMES[0]), workspace)
    assert (workspace / "work_dirs/tiny_paddlemix/model_state.pdparams").is_file() and "PaddleMIX" in output


def test_command_that_serves_is_valid():
    install, command = block_with("paddlemix serve --model", READMES[0]).splitlines()
    assert (ROOT / install.split()[-1]).is_file()
    _, name, *words = shlex.split(command)
    command_parser(name).parse(words)


def test_commands_in_the_text_are_valid():
    text = READMES[0].read_text(encoding="utf-8")
    assert "With `--model-path liuhaotian/llava-v1.5-7b --load-4bit` the same command" in text
    command_parser("chat").parse(["--model-path", "liuhaotian/llava-v1.5-7b", "--load-4bit"])
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"\bmake (\w+)", "".join(blocks(READMES[0], "bash")) + " ".join(re.findall("`.*?`", text))):
        assert re.search(rf"^{name}:", rules, re.MULTILINE), name


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_readme_is_short_and_leads_to_every_page(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    folder = ENGLISH if path == READMES[0] else CHINESE
    for page in folder.glob("*.md"):
        assert f"](docs/{folder.name}/{page.name})" in text, page.name


def test_repository_layout_names_what_exists_and_every_folder_of_the_package():
    (tree,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "") if block.startswith("paddlemix/"))
    named = {name for line in tree.splitlines() if line[0] == " " for name in line.strip().partition("  ")[0].split()}
    package = ROOT / "paddlemix"
    assert all((package / name).exists() for name in named), named
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} - {"examples/"}
    assert folders <= named, folders - named


def test_readme_states_the_number_of_benchmarks():  # tests/evaluate/test_eval_page.py runs the commands
    assert f"{len(TASKS.keys() - {'custom'})} benchmarks" in READMES[0].read_text(encoding="utf-8")


def test_names_in_contributing_exist():
    modules = [*(ROOT / "paddlemix").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    words = {word for module in modules for word in re.findall(r"\w+", module.read_text(encoding="utf-8"))}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Za-z]\w*[A-Za-z0-9])(?:\(\w*\))?`", text)) - {"NOTE", "CI", "utils", "helper", "misc"}
    assert len(named) > 40 and named <= words, sorted(named - words)
