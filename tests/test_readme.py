"""The commands in the documentation run as written, and the files that it names exist."""

import itertools
import json
import re
import shlex

import pytest
from documentation import (
    EXAMPLES,
    READMES,
    ROOT,
    TRAINING,
    TWINS,
    WEIGHTS,
    block_with,
    blocks,
    linked_folder,
    run,
)
from served_process import served

from paddlemix.cli import command_parser
from paddlemix.evaluate.tasks import TASKS
from paddlemix.models.language.families import FAMILIES

PAGES = [*itertools.chain(*TWINS), TRAINING, WEIGHTS, ROOT / "CONTRIBUTING.md"]
PAGES += [ROOT / "benchmarks/NOTES.md", EXAMPLES / "tiny/README.md", ROOT / "tests/npu_sim/plugin/README.md"]
NUMBER = r"\d[\d,.]*\d|\d"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return linked_folder(tmp_path_factory.mktemp("readme"))


def test_training_commands_run_and_the_merged_model_chats(workspace):
    output = run(block_with("pretrain.py", READMES[0]), workspace, input="How many shapes are there?\n")
    assert "ASSISTANT: The number of shapes is " in output
    assert (workspace / "work_dirs/example_merged/model.safetensors").is_file()


def test_chat_command_answers(workspace):
    commands = blocks(READMES[0], "bash")
    command = next(block for block in commands if block.startswith("python paddlemix/examples"))
    output = run(command.strip() + " --temperature 0", workspace, input="How many shapes are there?\n")
    assert "The number of shapes is four." in output


def test_python_example_runs(workspace):
    (code,) = (block for block in blocks(READMES[0], "python") if "ChatSession" in block)
    output = run(f"python - <<'END'\n{code}\nEND", workspace)
    assert "The number of shapes is four." in output


def test_commands_that_prepare_data_find_no_bad_row(workspace):
    output = run(block_with("paddlemix prepare", READMES[0]), workspace)
    assert "66 rows, 0 bad; 64 images looked at" in output


def test_commands_that_evaluate_score_the_model(workspace):
    output = run(block_with("paddlemix eval", READMES[0]), workspace)
    assert "50 of 397 questions" in output
    assert json.loads((workspace / "work_dirs/digits/before/scores.json").read_text(encoding="utf-8"))["custom"]


def test_client_of_the_server_prints_the_answer(workspace):
    command = block_with("paddlemix serve --model", READMES[0]).splitlines()[-1]
    _, name, *words = shlex.split(command)
    command_parser(name).parse(words)
    (code,) = (block for block in blocks(READMES[0], "python") if "openai" in block)
    assert "http://127.0.0.1:8000/v1" in code
    with served("--served-model-name", "tiny") as server:
        code = code.replace(":8000/", f":{server.port}/")
        output = run(f"python - <<'END'\n{code}\nEND", workspace)
    assert output.startswith("Top left a red star, top right a red triangle")


def test_repository_layout_names_what_exists_and_every_folder_of_the_package():
    (tree,) = (block for block in blocks(READMES[0], "") if block.startswith("paddlemix/"))
    named = {name for line in tree.splitlines() if line[0] == " " for name in line.strip().partition("  ")[0].split()}
    package = ROOT / "paddlemix"
    assert all((package / name).exists() for name in named), named
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} - {"examples/"}
    assert folders <= named, folders - named


def test_readme_states_the_number_of_benchmarks():
    assert f"{len(TASKS.keys() - {'custom'})} benchmarks" in READMES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_tables_of_models_name_every_family_and_existing_tests(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    titles = {"llama": "LLaMA", "phi3": "Phi-3", "mpt": "MPT"}
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for family in FAMILIES.values():
        title = titles.get(family.name, family.title)
        assert any(title in row.split("|")[1] for row in rows), family.name
    for path in re.findall(r"`((?:tests/|parity/)[\w/]+\.py)`", text):
        assert (ROOT / path).is_file() or (ROOT / "tests" / path).is_file(), path


def test_names_in_contributing_exist():
    modules = [*(ROOT / "paddlemix").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    words = {word for module in modules for word in re.findall(r"\w+", module.read_text(encoding="utf-8"))}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Za-z]\w*[A-Za-z0-9])(?:\(\w*\))?`", text)) - {"NOTE", "CI", "utils", "helper", "misc"}
    assert len(named) > 40 and named <= words, sorted(named - words)
