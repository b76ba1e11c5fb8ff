"""The pages in docs/: both languages alike, commands that run, links that lead somewhere, and settings that exist."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex

import pytest
from documentation import (
    ASCEND,
    CHAT,
    CHINESE,
    ENGLISH,
    EXAMPLES,
    FENCED,
    MODELS,
    ROOT,
    SETTINGS,
    TROUBLESHOOTING,
    TWINS,
    WEIGHTS,
    block_with,
    blocks,
    linked_folder,
    page,
    run,
    sections,
    table_shapes,
)

from paddlemix.cli import COMMANDS, command_parser
from paddlemix.commands import chat_commands
from paddlemix.conversation.templates import TEMPLATES
from paddlemix.models.language.families import FAMILIES
from paddlemix.train import arguments
from paddlemix.train.foreign_settings import FOREIGN

NUMBER = r"\d[\d,.]*\d|\d"
PAGES = [*itertools.chain(*TWINS), ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/NOTES.md"]
PAGES += [EXAMPLES / "README.md", EXAMPLES / "tiny/README.md", ROOT / "tests/npu_sim/plugin/README.md"]
NAMES = [path.stem for path in sorted(ENGLISH.glob("*.md"))]
# Pages whose first commands other tests run, or that need a server or a card.
RUN_ELSEWHERE = {"index", "quickstart", "prepare", "evaluation", "serving", "ascend", "seeds", "verified"}
RUN_ELSEWHERE |= {"performance", "troubleshooting", "chat", "from-llava", "from-paddlemix"}
OWNERS = {"llava": "LLaVA", "xtuner": "xtuner", "ms-swift": "ms-swift", "transformers": "transformers"}
TALK = "How many shapes are there?\n"


def first_block(path) -> str:
    return FENCED.search(path.read_text(encoding="utf-8"))[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return linked_folder(tmp_path_factory.mktemp("docs"))


def test_every_page_is_in_both_languages():
    assert [path.stem for path in sorted(CHINESE.glob("*.md"))] == NAMES and len(NAMES) > 15


@pytest.mark.parametrize("pages", TWINS, ids=lambda pages: pages[0].stem)
def test_chinese_page_has_the_same_commands_headings_and_tables(pages):
    for language in ("bash", "python", "json"):
        ours, theirs = ([re.sub(r"#.*", "", block).split() for block in blocks(path, language)] for path in pages)
        assert ours == theirs
    ours, theirs = (sections(path) for path in pages)
    assert [section.level for section in ours] == [section.level for section in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.code == other.code, one.heading
        assert table_shapes(one.text) == table_shapes(other.text), one.heading


@pytest.mark.parametrize("pages", TWINS, ids=lambda pages: pages[0].stem)
def test_chinese_page_has_the_same_examples_and_numbers(pages):
    # What follows two spaces is the description of a file, as in a table of folders.
    ours, theirs = (
        [[line.strip().partition("  ")[0] for line in block.splitlines()] for block in blocks(path, "")]
        for path in pages
    )
    assert ours == theirs
    for one, other in zip(*map(sections, pages), strict=True):
        in_millions = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100:g}", other.text)
        assert set(re.findall(NUMBER, one.text)) <= set(re.findall(NUMBER, in_millions)), one.heading


@pytest.mark.parametrize("name", NAMES)
def test_page_begins_with_a_valid_command(name):
    path = ENGLISH / f"{name}.md"
    text = path.read_text(encoding="utf-8")
    assert text.index("```") < 700, "the first command comes late"
    for line in first_block(path).replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words and words[0] == "paddlemix" and "--help" not in words and name != "seeds":
            command_parser(words[1]).parse(words[2:])
        elif words and words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(NAMES) - RUN_ELSEWHERE))
def test_first_command_of_the_page_runs(workspace, name):
    assert run(first_block(ENGLISH / f"{name}.md"), workspace, input=TALK)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_documentation_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in set(re.findall(r"\]\(([^)#:]+)\)", text)):
        assert (path.parent / target).exists(), f"{path} links to {target}"
    for target in set(re.findall(r"paddlemix/[\w./-]+\.(?:py|json|png)", text)):
        assert (ROOT / target).exists(), f"{path} names {target}"
    modules = [f"/{module.relative_to(ROOT).as_posix()}" for module in ROOT.glob("[pbtd]*/**/*.py")]
    for target in set(re.findall(r"`(?:\.\./)*([a-z0-9_/]+\.py)`", text)):
        assert any(module.endswith(f"/{target}") for module in modules), f"{path} names {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_lead_to_headings(path):
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        text = (path.parent / target if target else path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{path} links to {target}#{anchor}"


@pytest.mark.parametrize("folder", [ENGLISH, CHINESE], ids=lambda folder: folder.name)
def test_pages_do_not_lead_out_of_their_language(folder):
    """Only the first lines of a page lead to its twin; a reader who knows one language stays in it."""
    other = CHINESE if folder == ENGLISH else ENGLISH
    for path in folder.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(rf"\]\((\.\./{other.name}/[^)]*)\)", text) == [f"../{other.name}/{path.name}"], path


@pytest.mark.parametrize("name", ["mkdocs.yml", "mkdocs_zh.yml"])
def test_site_lists_every_page_once(name):
    text = (ROOT / name).read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"^ +- (?:[^:\n]+: )?([\w-]+)\.md$", text, re.MULTILINE)) == NAMES


def test_chat_page_has_every_option_command_and_template():
    text = {section.heading: section.text for section in sections(CHAT[0])}
    parser = command_parser("chat")
    options = {option for action in parser._actions for option in action.option_strings}
    shown = {option for option in options if "_" not in option} - {"-h", "--help"}
    rows = re.findall(r"^\| (`--.*?) \|", text["Options"], re.MULTILINE)
    assert {option for row in rows for option in re.findall(r"`(--[\w-]+)`", row)} == shown
    (row,) = (row for row in text["Options"].splitlines() if row.startswith("| `--conv-mode`"))
    assert set(re.findall(r"`(\w+)`", row)) == TEMPLATES.keys()
    commands = {*chat_commands.COMMANDS, "/regenerate", "/help"}
    assert set(re.findall(r"^\| `(/\w+)", text["In the chat"], re.MULTILINE)) == commands


def test_settings_page_has_every_setting_with_its_default():
    text = SETTINGS[0].read_text(encoding="utf-8")
    rows = [row.split("|")[1:-1] for row in re.findall(r"^\| `.*", text, re.MULTILINE)]
    fields = {field.name: field for cls in arguments.SETTINGS for field in dataclasses.fields(cls)}
    inherited = {field.name for field in dataclasses.fields(arguments.TrainingArguments)}
    named = set(re.findall(r"`(\w+)`", text))
    assert fields.keys() - inherited <= named
    assert arguments.WITHOUT_EFFECT | arguments.REFUSED.keys() <= named
    for keys, shown, *_ in rows:
        names = re.findall(r"`(\w+)`", keys)
        assert set(names) <= fields.keys() | {"dry_run"}, names
        defaults = [value.strip() for value in shown.split(",") if value.strip()]
        for key, value in zip(names, defaults, strict=False):
            if key not in ("device", "dry_run"):
                assert str(fields[key].default).lower() == value.lower(), key


@pytest.mark.parametrize("project", OWNERS)
def test_settings_of_another_project_are_answered_as_its_page_says(project):
    (section,) = (each for each in sections(page(f"from-{project}")[0]) if each.heading == "Settings")
    rows = [row.split("|")[1:-1] for row in re.findall(r"^\| `.*", section.text, re.MULTILINE)]
    assert len(rows) >= 4
    known = set().union(*(arguments._field_types(cls) for cls in arguments.SETTINGS)) | {"dataset"}
    for theirs, ours in rows:
        for name in re.findall(r"`(\w+)`", theirs):
            assert FOREIGN[name].owner in (OWNERS[project], OWNERS["transformers"]), name
        for code in re.findall(r"`([^`]+)`", ours):
            word = code.partition(":")[0]
            assert word in known or word.startswith(("--key", "paddlemix ")) or word == "eval", word


def test_commands_of_the_other_projects_exist_here():
    for name in NAMES:
        if name.startswith("from-"):
            text = page(name)[0].read_text(encoding="utf-8")
            for command in re.findall(r"`paddlemix ([a-z][\w-]*)", text):
                assert command in COMMANDS, f"{name} names {command}"


@pytest.mark.parametrize("name", ["data", "from-llava"])
def test_commands_in_examples_are_valid(name):
    text = "".join(blocks(page(name)[0], "bash") + blocks(page(name)[0], ""))
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("paddlemix ")]
    assert lines
    for _, command, *words in lines:
        command_parser(command).parse(words)


@pytest.mark.parametrize("name", ["chat", "from-transformers"])
def test_python_example_runs(workspace, name):
    (code,) = (block for block in blocks(page(name)[0], "python") if "ChatSession" in block)
    output = run(f"python - <<'END'\n{code}\nEND", workspace)
    assert "The number of shapes is four." in output


def test_chat_command_answers(workspace):
    output = run(first_block(CHAT[0]).strip() + " --temperature 0", workspace, input=TALK)
    assert "The number of shapes is four." in output


def test_commands_about_weights_run_on_the_bundled_model(workspace):
    output = run(block_with("tiny_official", WEIGHTS[0]).strip() + " --temperature 0", workspace, input=TALK)
    assert "ASSISTANT: The number of shapes is four." in output


def test_commands_about_large_models_are_valid():
    commands = "".join(blocks(WEIGHTS[0], "bash")).replace("\\\n", " ").splitlines()
    assert sum("-13b" in command for command in commands) >= 3
    for command in commands:
        _, name, *words = shlex.split(command)
        command_parser(name).parse(words)


def test_commands_on_ascend_are_valid():
    text = "".join(blocks(ASCEND[0], "bash")).replace("\\\n", " ")
    ours = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("paddlemix ")]
    assert [words[1] for words in ours] == ["doctor", "chat", "sft", "doctor"]
    for _, name, *words in ours:
        arguments_ = command_parser(name).parse(words)
        assert arguments_.device == "npu" if name == "chat" else "--device" in arguments_.settings


@pytest.mark.parametrize(("pages", "count"), [(ASCEND, 15), (TROUBLESHOOTING, 12)], ids=["ascend", "troubleshooting"])
def test_both_languages_have_the_same_messages_and_these_are_the_packages(pages, count):
    cells = [re.findall(r"^\| `([^`]*)` \|", path.read_text(encoding="utf-8"), re.MULTILINE) for path in pages]
    assert cells[0] == cells[1] and len(cells[0]) >= count - 1
    sources = (module.read_text(encoding="utf-8") for module in (ROOT / "paddlemix").rglob("*.py"))
    # Join string literals that continue on the next line.
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    for message in cells[0]:
        for part in message.replace("SIGABRT", "...").split("..."):
            assert part.strip() in source, message


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_tables_of_models_name_every_family_and_existing_tests(path):
    text = path.read_text(encoding="utf-8")
    titles = {"llama": "LLaMA", "phi3": "Phi-3", "mpt": "MPT"}
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for family in FAMILIES.values():
        assert any(titles.get(family.name, family.title) in row.split("|")[1] for row in rows), family.name
        assert any(f"`{family.name}`" in row.split("|")[1] for row in rows), family.name
    for name in re.findall(r"`((?:tests/|parity/)[\w/]+\.py)`", text):
        assert (ROOT / name).is_file() or (ROOT / "tests" / name).is_file(), name


def test_tests_that_are_named_as_evidence_exist():
    for name in NAMES:
        text = page(name)[0].read_text(encoding="utf-8")
        for target in set(re.findall(r"`(tests/[\w/]*(?:\.py)?)`", text)):
            assert (ROOT / target).exists(), f"{name} names {target}"


def test_json_of_the_pages_is_valid():
    for name in NAMES:
        for block in blocks(page(name)[0], "json"):
            json.loads(block if block.lstrip().startswith("{") else f"{{{block}}}")
