"""The commands of evaluation.md and of the README's section on evaluation run, and what these pages name exists."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil

import benchmark_files
import pytest
import tiny_folder
from documentation import EVALUATION, EXAMPLES, READMES, ROOT, blocks, linked_folder, run, sections
from fake_judge import KEY, running

from paddlemix.cli import command_parser
from paddlemix.evaluate.tasks import TASKS, task_of

MODEL = "paddlemix/examples/llava/tiny/model"
HUB_NAME = "liuhaotian/llava-v1.5-7b"
DIGITS = "work_dirs/digits"
LAUNCHED = "paddlemix/examples/llava/eval/run.py"
TOOLKITS = ("lmms_eval", "run.py")  # of others, whose options are not ours
TOOLKIT_OPTIONS = {"--api-nproc", "--base-url", "--max-tokens"}


def block_with(words: str, path=EVALUATION[0]) -> str:
    """Return the only block of commands with these words."""
    (found,) = (block for block in blocks(path, "bash") if words in block)
    return found


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """Return a text with something in place of each thing that tests do not have."""
    for old, new in pairs:
        assert old in text, f"{old!r} is not in {text!r}"
        text = text.replace(old, new)
    return text


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a folder with the package and, in data/, tiny files of the benchmarks that evaluation.md runs."""
    folder = linked_folder(tmp_path_factory.mktemp("evaluation"))
    for make in (benchmark_files.pope, benchmark_files.mme, benchmark_files.llava_bench):
        make(folder / "data")
    file = io.BytesIO()
    tiny_folder.random_image(1).save(file, "PNG")
    for path in (folder / "data").rglob("*"):
        if path.suffix in (".png", ".jpg"):
            path.write_bytes(file.getvalue())
    return folder


@pytest.fixture(scope="module")
def printed(workspace):
    """Run the README's commands as they stand and return what they print."""
    return run(block_with("make_digits", READMES[0]), workspace)


def test_commands_that_run_as_they_stand_do(workspace, printed):
    for line in block_with("make_digits").splitlines():
        assert line in block_with("make_digits", READMES[0]).splitlines()
    assert all(name in printed for name in TASKS) and "only 50 of 397 questions" in printed
    output = workspace / DIGITS / "before"
    assert len(rows_of(output / "custom" / "answers.jsonl")) == 50
    assert (output / "report.html").stat().st_size and json.loads((output / "scores.json").read_text())["custom"]


def test_benchmarks_are_listed_run_scored_again_and_compared(workspace):
    commands = block_with("eval compare")
    assert "`paddlemix eval list pope`" in commands
    printed = run(
        "paddlemix eval list pope\n"
        + changed(
            commands, (HUB_NAME, MODEL), ("paddlemix eval compare", "cp -r out other-out; paddlemix eval compare")
        ),
        workspace,
    )
    assert "prompt styles" in printed and "lmms" in printed and "mean credit" in printed
    assert set(json.loads((workspace / "out" / "scores.json").read_text())) == {"pope", "mme"}


def test_several_processes_write_the_answers_of_one(workspace):
    cards = "--gpus 0,1,2,3"
    on_cpu = "--nproc_per_node 2", "--device cpu"
    assert all(f"`{option}`" in EVALUATION[0].read_text(encoding="utf-8") for option in on_cpu)
    command = block_with("paddle.distributed.launch").strip()
    command = changed(command, (cards, on_cpu[0]), (HUB_NAME, MODEL), ("--output out", "--output two"))
    run(f"{command} {on_cpu[1]}", workspace)
    one = block_with("eval compare").splitlines()[1]
    run(f"{changed(one, (HUB_NAME, MODEL), ('--output out', '--output one'))} --device cpu", workspace)
    for name in ("pope", "mme"):
        written = [(workspace / output / name / "answers.jsonl").read_bytes() for output in ("one", "two")]
        assert written[0] == written[1] and written[0]


def test_questions_of_ones_own_are_answered(workspace, printed):
    (workspace / "my" / "images").mkdir(parents=True)
    for name in ("a.jpg", "images/b.jpg"):
        shutil.copy(workspace / "data" / "pope" / "val2014" / "COCO_val2014_000000310196.jpg", workspace / "my" / name)
    text = EVALUATION[0].read_text(encoding="utf-8")
    rows = [json.loads(re.search(r'`(\{"question".*\})`', text)[1])]
    rows += [{**rows[0], "image": "b.jpg", "id": "second", "category": "more", "answer": "the"}]
    (workspace / "my" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = changed(block_with("my/questions.jsonl"), ("--output out", "--output mine"))
    assert "contains" in run(command, workspace)
    assert len(rows_of(workspace / "mine" / "custom" / "answers.jsonl")) == 2


def test_a_judge_of_ones_own_reads_the_answers_that_were_kept(workspace):
    commands = block_with("--judge gpt-4o")
    judge = " --judge gpt-4o"
    with running() as server:
        stand_ins = ("OPENAI_API_KEY=...", f"OPENAI_API_KEY={KEY}"), ("http://127.0.0.1:8000/v1", server.url)
        commands = changed(commands, *stand_ins, ("-path M", f"-path {MODEL}"), ("--output out", "--output judged"))
        assert "no score" in run(changed(commands, (judge, "")), workspace) and not server.seen
        assert "judge: gpt-4o" in run(commands, workspace) and server.seen
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def command_lines() -> list[list[str]]:
    """Return the words of every command in evaluation.md."""
    text = "".join(blocks(EVALUATION[0], "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words and words[0] != "export"]


def test_every_command_is_valid():
    lines = command_lines()
    assert len(lines) >= 10
    for words in lines:
        if words[0] == "paddlemix":
            command_parser(words[1]).parse(words[2:])
        elif "paddle.distributed.launch" in words:
            command_parser("eval").parse(["run", *words[words.index(LAUNCHED) + 1 :]])
        elif not any(word in TOOLKITS for word in words):
            assert words[0] == "python" and any((ROOT / word).is_file() or "make_digits" in word for word in words)


def test_options_in_the_text_are_options_of_the_package_or_of_the_launcher():
    source = "".join(module.read_text(encoding="utf-8") for module in (ROOT / "paddlemix").rglob("*.py"))
    launcher = {"--devices", "--nproc_per_node"}
    named = {
        word for section in sections(EVALUATION[0]) for code in section.code for word in re.findall(r"--[\w-]+", code)
    }
    assert len(named) > 15
    for option in named - launcher - TOOLKIT_OPTIONS:
        assert f'"{option}"' in source, option


def test_the_table_of_benchmarks_names_every_task_and_no_other():
    (section,) = (section for section in sections(EVALUATION[0]) if section.heading == "Benchmarks")
    cells = re.findall(r"^\| (`.*?) \|", section.text, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+)", cell) if not name.startswith("_")]
    for name in names:
        if name != "refcoco_plus_":
            assert task_of(name).name == name
    endings = {ending.lower() for cell in cells for ending in re.findall(r"`(_\w+)`", cell)}
    stems = {name.rpartition("_")[0] for name in names}
    for name in TASKS:
        stem, _, ending = name.removesuffix("_v11").rpartition("_")
        assert name in names or (stem in stems and f"_{ending}" in endings | {"_dev", "_val"}), name


def test_the_table_of_scripts_names_every_script():
    (section,) = (section for section in sections(EVALUATION[0]) if section.heading == "The scripts of LLaVA")
    scripts = {path.name for path in (EXAMPLES / "eval").glob("*.py")} - {"__init__.py", "make_digits.py", "run.py"}
    assert {word for word in section.code if word.endswith(".py")} == scripts
