"""The commands in the documentation run as written, and the files that it names exist."""

import itertools
import json
import re
import shlex

import pytest
from documentation import (
    ASCEND,
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
    sections,
    table_shapes,
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


def test_commands_about_weights_run_on_the_bundled_model(workspace):
    output = run(
        block_with("tiny_official", WEIGHTS).strip() + " --temperature 0",
        workspace,
        input="How many shapes are there?\n",
    )
    assert "ASSISTANT: The number of shapes is four." in output


def test_commands_about_large_models_are_valid():
    commands = "".join(blocks(WEIGHTS, "bash")).replace("\\\n", " ").splitlines()
    assert sum("-13b" in command for command in commands) >= 3
    for command in commands:
        _, name, *words = shlex.split(command)
        command_parser(name).parse(words)


@pytest.mark.parametrize("pages", TWINS, ids=lambda pages: pages[0].stem)
def test_chinese_page_has_the_same_commands_headings_and_tables(pages):
    for language in ("bash", "python", "json"):
        ours, theirs = ([re.sub(r"#.*", "", block).split() for block in blocks(path, language)] for path in pages)
        assert ours == theirs
    ours, theirs = (sections(path) for path in pages)
    assert [section.level for section in ours] == [section.level for section in theirs] and len(ours) > 5
    for one, other in zip(ours, theirs, strict=True):
        assert one.code == other.code, one.heading
        assert table_shapes(one.text) == table_shapes(other.text), one.heading


@pytest.mark.parametrize("pages", TWINS, ids=lambda pages: pages[0].stem)
def test_chinese_page_has_the_same_examples_and_numbers(pages):
    # What follows two spaces is the description of a file, as in the table of the repository.
    ours, theirs = (
        [[line.strip().partition("  ")[0] for line in block.splitlines()] for block in blocks(path, "")]
        for path in pages
    )
    assert ours == theirs
    for one, other in zip(*map(sections, pages), strict=True):
        in_millions = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100:g}", other.text)
        assert set(re.findall(NUMBER, one.text)) <= set(re.findall(NUMBER, in_millions)), one.heading


def test_repository_layout_names_what_exists_and_every_folder_of_the_package():
    (tree,) = (block for block in blocks(READMES[0], "") if block.startswith("paddlemix/"))
    named = {name for line in tree.splitlines() if line[0] == " " for name in line.strip().partition("  ")[0].split()}
    package = ROOT / "paddlemix"
    assert all((package / name).exists() for name in named), named
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} - {"examples/"}
    assert folders <= named, folders - named


def test_readme_states_the_number_of_benchmarks():
    assert f"{len(TASKS.keys() - {'custom'})} benchmarks" in READMES[0].read_text(encoding="utf-8")


def test_both_pages_on_ascend_have_the_same_messages():
    first_cells = [
        re.findall(r"^\| (`[^`]*`|\d\S*) \|", path.read_text(encoding="utf-8"), re.MULTILINE) for path in ASCEND
    ]
    assert first_cells[0] == first_cells[1] and len(first_cells[0]) > 15
    tests = re.findall(r"`(tests/[\w/]+\.py)`", ASCEND[0].read_text(encoding="utf-8"))
    assert tests and all((ROOT / path).is_file() for path in tests)


def test_commands_on_ascend_are_valid():
    text = "".join(blocks(ASCEND[0], "bash")).replace("\\\n", " ")
    ours = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("paddlemix ")]
    assert [words[1] for words in ours] == ["doctor", "chat", "sft", "doctor"]
    for _, name, *words in ours:
        arguments = command_parser(name).parse(words)
        assert arguments.device == "npu" if name == "chat" else "--device" in arguments.settings


@pytest.mark.parametrize(("path", "heading"), [(ASCEND[0], "## Troubleshooting"), (TRAINING, "## Errors you may meet")])
def test_messages_in_the_tables_of_errors_are_those_of_the_package(path, heading):
    sources = (module.read_text(encoding="utf-8") for module in (ROOT / "paddlemix").rglob("*.py"))
    # Join string literals that continue on the next line.
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    messages = re.findall(r"^\| `(.*?)` \|", path.read_text(encoding="utf-8").partition(heading)[2], re.MULTILINE)
    assert len(messages) >= 12
    for message in messages:
        for part in message.replace("SIGABRT", "...").split("..."):
            assert part.strip() in source, message


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_documentation_exist(path):
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([^)#:]+)\)", text))
    for target in named:
        assert (path.parent / target).exists(), f"{path} links to {target}"
    for target in set(re.findall(r"paddlemix/[\w./-]+\.(?:py|json|png)", text)):
        assert (ROOT / target).exists(), f"{path} names {target}"
    modules = [f"/{module.relative_to(ROOT).as_posix()}" for module in ROOT.glob("[pbt]*/**/*.py")]
    for target in set(re.findall(r"`(?:\.\./)*([a-z0-9_/]+\.py)`", text)):
        assert any(module.endswith(f"/{target}") for module in modules), f"{path} names {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_lead_to_headings(path):
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        text = (path.parent / target if target else path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{path} links to {target}#{anchor}"


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
