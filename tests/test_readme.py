"""The commands in the documentation run as written, and the files that it names exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.cli import command_parser
from paddlemix.models.language.families import FAMILIES

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "paddlemix/examples/llava/WEIGHTS.md"
ASCEND = [ROOT / "paddlemix/examples/llava" / name for name in ("ASCEND.md", "ASCEND_zh.md")]
READMES = [ROOT / "README.md", ROOT / "README_zh.md", ROOT / "paddlemix/examples/llava/README.md", WEIGHTS, *ASCEND]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/NOTES.md"]
PAGES += [ROOT / "paddlemix/examples/llava/tiny/README.md", ROOT / "tests/npu_sim/plugin/README.md"]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a folder with a link to the package, so that the commands write outside the repository."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "paddlemix").symlink_to(ROOT / "paddlemix")
    return folder


def run(command: str, folder: Path, **options) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, **options
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


def training_block() -> str:
    return next(block for block in blocks(ROOT / "README.md", "bash") if "make_data" in block)


def test_training_commands_run_and_the_merged_model_chats(workspace):
    output = run(training_block(), workspace, input="How many shapes are there?\n")
    assert "ASSISTANT: The number of shapes is " in output
    assert (workspace / "work_dirs/example_merged/model.safetensors").is_file()


def test_chat_command_answers(workspace):
    commands = blocks(ROOT / "README.md", "bash")
    command = next(block for block in commands if block.startswith("python paddlemix/examples"))
    output = run(command.strip() + " --temperature 0", workspace, input="How many shapes are there?\n")
    assert "The number of shapes is four." in output


def test_python_example_runs(workspace):
    (code,) = blocks(ROOT / "README.md", "python")
    output = run(f"python - <<'END'\n{code}\nEND", workspace)
    assert "The number of shapes is four." in output


def test_commands_about_weights_run_on_the_bundled_model(workspace):
    (block,) = (block for block in blocks(WEIGHTS, "bash") if "tiny_official" in block)
    output = run(block.strip() + " --temperature 0", workspace, input="How many shapes are there?\n")
    assert "ASSISTANT: The number of shapes is four." in output


def test_commands_about_large_models_are_valid():
    commands = "".join(blocks(WEIGHTS, "bash")).replace("\\\n", " ").splitlines()
    assert sum("-13b" in command for command in commands) >= 3
    for command in commands:
        _, name, *words = shlex.split(command)
        command_parser(name).parse(words)


def test_chinese_readme_has_the_same_commands():
    for language in ("bash", "python"):
        ours, theirs = (
            [re.sub(r"#.*", "", block) for block in blocks(path, language)] for path in (READMES[0], READMES[1])
        )
        assert [block.split() for block in ours] == [block.split() for block in theirs]


def test_both_pages_on_ascend_have_the_same_commands_tables_and_messages():
    for language in ("bash", "json"):
        ours, theirs = ([re.sub(r"#.*", "", block).split() for block in blocks(path, language)] for path in ASCEND)
        assert ours == theirs and ours
    first_cells = [
        re.findall(r"^\| (`[^`]*`|\d\S*) \|", path.read_text(encoding="utf-8"), re.MULTILINE) for path in ASCEND
    ]
    assert first_cells[0] == first_cells[1] and len(first_cells[0]) > 15
    tests = [set(re.findall(r"`(tests/[\w/]+\.py)`", path.read_text(encoding="utf-8"))) for path in ASCEND]
    assert tests[0] == tests[1] and all((ROOT / path).is_file() for path in tests[0])


def test_commands_on_ascend_are_valid():
    text = "".join(blocks(ASCEND[0], "bash")).replace("\\\n", " ")
    ours = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("paddlemix ")]
    assert [words[1] for words in ours] == ["doctor", "chat", "sft", "doctor"]
    for _, name, *words in ours:
        arguments = command_parser(name).parse(words)
        assert arguments.device == "npu" if name == "chat" else "--device" in arguments.settings


@pytest.mark.parametrize(
    ("path", "heading"), [(ASCEND[0], "## Troubleshooting"), (READMES[2], "## Errors you may meet")]
)
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
