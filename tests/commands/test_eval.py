"""`paddlemix eval`: benchmarks from the command line, to their scores, reports and submission files."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal

import benchmark_files
import pytest
import tiny_folder
from fake_judge import running
from PIL import Image
from tables import base64_of, write_table

from paddlemix import cli
from paddlemix.cli import main
from paddlemix.evaluate import outputs
from paddlemix.evaluate.readers import pope
from paddlemix.evaluate.tasks import TASKS

TABLES = {
    "MMBench_DEV_EN": {"hint": "", "A": "cat", "B": "dog", "answer": "B", "category": "ocr", "l2-category": "x"},
    "AI2D_TEST": {"A": "None", "B": "N/A", "answer": "A", "category": "x"},
    "MMMU_DEV_VAL": {"A": "cat", "B": "dog", "answer": "B", "category": "Art"},
    "HallusionBench": {"answer": "Yes", "category": "VD", "l2-category": "chart"},
    "OCRBench": {"answer": "['CENTRE']", "category": "Scene Text-centric VQA"},
    "RealWorldQA": {"A": "cat", "B": "dog", "answer": "B"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with tiny files of most benchmarks."""
    folder = tmp_path_factory.mktemp("data")
    for make in benchmark_files.FOLDERS.values():
        make(folder)
    content = picture()
    for path in folder.rglob("*"):
        if path.suffix in (".png", ".jpg", ".jpeg"):
            path.write_bytes(content)
    for name, cells in TABLES.items():
        index = "VD_chart_1_0_0_0" if name == "HallusionBench" else "1"
        row = {"index": index, "question": "Which?", **cells, "image": base64_of(content)}
        write_table(folder / f"{name}.tsv", [row])
    return folder


def picture() -> bytes:
    file = io.BytesIO()
    tiny_folder.random_image(1).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def evaluate(capsys, monkeypatch):
    """Return a function that runs `paddlemix eval` and returns (code, output, errors)."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests

    def run(*words):
        code = main(["eval", *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def of_model(*words, data, output):
    model = tiny_folder.folder("pad")
    return ["run", *words, "--model-path", model, "--data-dir", data, "--output", output, "--device", "cpu",
            "--max-new-tokens", "4"]  # fmt: skip


def test_one_command_runs_benchmarks_of_every_kind_to_the_end(evaluate, data, tmp_path):
    names = [*benchmark_files.FOLDERS, "mmbench", "ai2d", "mmmu", "hallusionbench", "ocrbench", "realworldqa"]
    output = tmp_path / "out"
    code, printed, _ = evaluate(*of_model(*names, data=data, output=output))
    assert code == 0
    scores = json.loads((output / "scores.json").read_text())
    assert len(scores) == len(names) and all(task in printed for task in scores)
    for name, found in scores.items():
        task = TASKS[name]
        rows = [json.loads(line) for line in (output / name / "answers.jsonl").read_text().splitlines()]
        assert len(rows) == found["num_questions"] and all(row["prompt"] for row in rows), name
        assert found["num_answers"] + found["problems"]["count"] >= len(rows) and found["num_answers"], name
        assert (found["value"] is None) == task.has_judge, name
        assert found["rule"] == task.rule and found["style"] == next(iter(task.styles))
        if task.submission and name != "mme":
            assert (output / name / task.submission_name).stat().st_size
    assert (output / "mme" / "existence.txt").is_file()
    page = (output / "report.html").read_text()
    assert all(f">{name}<" in page for name in names if name in TASKS)
    recorded = json.loads((output / "run.json").read_text())["tasks"]
    assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for one in recorded.values() for file in one["files"])


def test_later_tasks_join_the_scores_of_earlier_ones(evaluate, data, tmp_path):
    output = tmp_path / "out"
    assert evaluate(*of_model("gqa", data=data, output=output))[0] == 0
    first = json.loads((output / "scores.json").read_text())
    _, printed, _ = evaluate(*of_model("pope", data=data, output=output))
    both = json.loads((output / "scores.json").read_text())
    assert list(both) == ["gqa", "pope"] and both["gqa"] == first["gqa"] and "gqa" in printed


def test_scores_of_a_run_come_out_of_its_answers_alone_with_any_rule(evaluate, data, tmp_path):
    output = tmp_path / "out"
    evaluate(*of_model("textvqa", "pope", "custom", data=data, output=output))
    scores = json.loads((output / "scores.json").read_text())
    for name in scores:
        code, printed, _ = evaluate("score", name, "--answers", output / name / "answers.jsonl", "--json")
        found = json.loads(printed)[name]
        assert code == 0 and {key: found[key] for key in ("figures", "rule", "num_items")} == {
            key: scores[name][key] for key in ("figures", "rule", "num_items")
        }
    code, printed, _ = evaluate(
        "score", "textvqa", "--answers", output / "textvqa" / "answers.jsonl", "--rule", "official"
    )
    assert code == 0 and "official" in printed


def test_released_counts_give_the_published_figures_of_pope(evaluate, tmp_path):
    """True yes, false yes, true no, false no of LLaVA 1.5 13B, in LLaVA's order: adversarial, popular, random."""
    counts = {"adversarial": (1182, 117, 1383, 318), "popular": (1182, 59, 1441, 318), "random": (1182, 31, 1379, 318)}
    kinds, lines = (("Yes", "yes"), ("Yes", "no"), ("No", "no"), ("No", "yes")), []
    for category, members in counts.items():
        labels = []
        for (text, label), count in zip(kinds, members, strict=True):
            for _ in range(count):
                labels.append({"question_id": len(labels) + 1, "image": "x.jpg", "text": "Is it?", "label": label})
                number = pope.LLAVA_IDS[category] + len(labels)
                lines.append({"question_id": number, "prompt": "", "text": text, "answer_id": "", "model_id": ""})
        benchmark_files.write_lines(tmp_path / f"coco_pope_{category}.json", labels)
    benchmark_files.write_lines(tmp_path / "answers.jsonl", lines)
    words = ("score", "pope", "--answers", tmp_path / "answers.jsonl", "--data-dir", tmp_path)
    code, printed, _ = evaluate(*words, "--json")
    figures = json.loads(printed)["pope"]["figures"]
    assert code == 0
    assert [round(figures[f"f1/{name}"]["value"], 4) for name in counts] == [0.8446, 0.8625, 0.8714]
    assert "85.9%" in evaluate(*words)[1]


def test_a_judge_reads_the_answers_once(evaluate, data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        words = of_model("llava_bench", data=data, output=output)
        code, printed, _ = evaluate(*words)
        assert code == 0 and "no score: " in printed and "have not been read by a judge" in printed
        code, printed, _ = evaluate(*words, "--judge", "gpt-test")
        num_asked = len(server.seen)
        assert code == 0 and num_asked > 0 and "112.5" in printed and "judge: gpt-test" in printed
        assert evaluate(*words)[1] == printed and evaluate(*words, "--judge", "gpt-test")[1] == printed
        assert len(server.seen) == num_asked
    row = json.loads((output / "llava_bench" / "answers.jsonl").read_text().splitlines()[0])
    assert row["judgement"] == ["8 9\nBecause."]
    assert "gpt-test" in (output / "report.html").read_text()


def test_a_judge_reads_answers_of_another_tool_once(evaluate, data, tmp_path, monkeypatch):
    answers = tmp_path / "vet.jsonl"
    benchmark_files.write_lines(answers, [{"question_id": "v1_0", "prompt": "x", "text": "y", "model_id": "m"}])
    words = ("score", "mmvet", "--answers", answers, "--data-dir", data, "--report", tmp_path / "vet.html")
    assert "have not been read by a judge: --judge names one" in " ".join(evaluate(*words)[1].split())
    with running(lambda body: "0.5") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        code, printed, _ = evaluate(*words, "--judge", "gpt-test")
        assert code == 0 and "50.0%" in printed and "judge: gpt-test" in printed and len(server.seen) == 1
        assert evaluate(*words, "--judge", "gpt-test")[1] == evaluate(*words)[1] == printed and len(server.seen) == 1
    assert "gpt-test" in (tmp_path / "vet.html").read_text() and (tmp_path / "vet.judgements.jsonl").is_file()


def test_runs_are_compared_by_task(evaluate, data, tmp_path):
    for name, more in (("a", ()), ("b", ("--seed", "3", "--temperature", "2"))):
        _, printed, _ = evaluate(*of_model("gqa", "pope", *more, data=data, output=tmp_path / name))
        for line in printed.splitlines()[-2:]:  # the next commands
            words = shlex.split(line.split("paddlemix eval ")[1])
            assert evaluate(*(tmp_path / "a" if word == "OTHER_OUTPUT" else word for word in words))[0] == 0
    code, printed, _ = evaluate("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "gqa\n" in printed and "pope\n" in printed and "mean credit: " in printed
    code, printed, _ = evaluate("compare", tmp_path / "a", tmp_path / "a", "--task", "gqa", "--json")
    found = json.loads(printed)
    assert list(found) == ["gqa"] and found["gqa"]["changes"] == [] and found["gqa"]["difference"] == 0


def test_the_list_names_files_prompts_and_rules(evaluate):
    _, printed, _ = evaluate("list")
    assert all(name in printed for name in TASKS)
    _, printed, _ = evaluate("list", "mmbench", "TextVQA")
    assert "MMBench_DEV_EN.tsv" in printed and "llava, lmms, vlmevalkit" in printed and "official" in printed
    _, printed, _ = evaluate("list", "--json")
    assert json.loads(printed)["mmvet"]["judge"] == "needed"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["mmbnech"], "unknown task 'mmbnech': did you mean 'mmbench'? `paddlemix eval list` lists all tasks"),
        (["gqa", "--rule", "lama"], "gqa has no rule 'lama': it has "),
        (["docvqa", "--prompt-style", "llava"], "docvqa has no prompt style 'llava'; it has lmms, vlmevalkit"),
        (["gqa", "--prompt-style", "llama"], "gqa does not know the prompt style 'llama'"),
        (["gqa", "--data-dir", "none"], "none does not exist: expected a folder with testdev_balanced_questions.json"),
        (["gqa", "--ocr"], "gqa has no prompt with OCR tokens in this style"),
        (["gqa", "--conv-mode", "vicuna"], "vicuna"),
        (["gqa", "--temperature", "-1"], "temperature is -1.0: expected a number of at least 0"),
        (["gqa", "--model-path", "none/none"], "none"),
        (["mmvet", "--judge", "gpt-test", "--judge-url", ""], "there is no key for https://api.openai.com/v1: set "),
        (["mmvet", "--judge", "gpt-test", "--judge-url", "localhost"], "the judge's base URL cannot be used"),
        (["mmvet", "--judge", "m", "--judge-url", "http://a/v1", "--judge-rules", "none"], "none cannot be read"),
        (["llava_bench", "--judge", "m", "--judge-url", "http://a/v1", "--judge-runs", "2"], "only MM-Vet has several"),
        (["mmvet", "--judge-url", "http://a/v1"], "name its model with --judge"),
        (["mmstar"], "has not the files of mmstar: expected MMStar.tsv"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(evaluate, data, tmp_path, monkeypatch, words, text):
    monkeypatch.setenv("PADDLEMIX_HUB", "http://127.0.0.1:9")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, errors = evaluate(*of_model(*words[:1], data=data, output=tmp_path / "out"), *words[1:])
    assert code == 1 and text in errors and errors.count("error:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["score", "pope", "--answers", "none.jsonl"], "none.jsonl is not a file: expected the answers to pope"),
        (["score", "pope", "--answers", "llava.jsonl"], "cannot be scored alone; give --data-dir with "),
        (["score", "pope", "--answers", "llava.jsonl"], "coco_pope_random.json; or POPE.tsv: LLaVA's files"),
        (["score", "pope", "--answers", "other.json"], "other.json"),
        (
            ["score", "pope", "--answers", "llava.jsonl", "--judge", "m"],
            "no judge reads the answers to pope; leave --judge out",
        ),
        (["score", "pope", "--answers", "llava.jsonl", "--rule", "no"], "pope has no rule 'no'"),
        (["compare", "none", "none"], "none does not exist: expected the output folder of `paddlemix eval run`"),
        (["compare", ".", "."], "there is nothing to compare"),
    ],
)
def test_mistakes_in_scoring_are_named(evaluate, tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    benchmark_files.write_lines(tmp_path / "llava.jsonl", [{"question_id": 1, "prompt": "x", "text": "Yes"}])
    (tmp_path / "other.json").write_text("{}")
    code, _, errors = evaluate(*words)
    assert code == 1 and text in errors


def test_answers_to_another_benchmark_and_a_run_without_a_model_are_pointed_out(evaluate, tmp_path, caplog):
    answers = [{"id": "q1", "output": "Yes"}, *({"id": f"other {number}", "output": "A"} for number in range(9))]
    benchmark_files.custom(tmp_path)
    benchmark_files.write_lines(tmp_path / "custom.jsonl", [{"id": "q1", "question": "Is it?", "answer": "yes"}])
    benchmark_files.write_lines(tmp_path / "answers.jsonl", answers)
    code, _, _ = evaluate("score", "custom", "--answers", tmp_path / "answers.jsonl", "--data-dir", tmp_path)
    assert code == 0 and "most of these answers are to other questions than those of custom" in caplog.text
    words = ("run", "custom", "--data-dir", tmp_path, "--output", tmp_path / "out", "--device", "cpu")
    assert evaluate(*words)[0] == 0 and "the bundled tiny model answers" in caplog.text
    caplog.clear()
    assert evaluate(*of_model("custom", data=tmp_path, output=tmp_path / "own"))[0] == 0
    assert "the bundled tiny model" not in caplog.text


def test_answer_that_the_rule_cannot_use_is_named_before_the_model_is_loaded(evaluate, tmp_path):
    row = {"question": "Which?", "options": ["cat", "dog"]}
    rows = [{**row, "answer": "dog"}, {**row, "answer": "fish"}, {**row, "answer": "B"}]
    benchmark_files.write_lines(tmp_path / "custom.jsonl", rows)
    words = ("run", "custom", "--data-dir", tmp_path, "--output", tmp_path / "out", "--model-path", "no-such-model")
    code, _, errors = evaluate(*words, "--rule", "letter")
    assert code == 1 and "1 problem: custom.jsonl (2): the answer 'fish' is neither" in " ".join(errors.split())
    assert not (tmp_path / "out").exists()


def test_sigterm_while_scores_are_written_ends_with_a_line_and_the_same_command_goes_on(
    evaluate, data, tmp_path, monkeypatch, caplog
):
    words = of_model("custom", data=data, output=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_report", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
        assert evaluate(*words)[0] == 128 + signal.SIGTERM
    assert "the answers so far are kept: the same command goes on from there" in caplog.text
    code, printed, _ = evaluate(*words)
    assert code == 0 and "result" in printed and "left out" not in printed


def test_an_image_that_cannot_be_read_is_named_in_scores_and_report(evaluate, data, tmp_path):
    folder = tmp_path / "custom"
    benchmark_files.custom(folder)
    for path, content in ((folder / "images" / "a.png", picture()), (folder / "images" / "b.png", b"no image")):
        path.write_bytes(content)
    assert Image.open(folder / "images" / "a.png").size
    code, printed, _ = evaluate(*of_model("custom", data=tmp_path, output=tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["custom"]
    assert code == 0 and found["num_answers"] == 2 and found["num_items"] == 2
    assert found["problems"]["count"] == 1 and "b.png" in found["problems"]["first"][0]["text"]
    assert "1 of 3 questions have no answer; they are not in the figures" in printed
    assert "b.png" in (tmp_path / "out" / "report.html").read_text()


def test_number_that_is_none_is_said_in_words(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "run", "pope", "--data-dir", "x", "--output", "y", "--limit", "abc"])
    assert "--limit: 'abc' is not a whole number of at least 1" in capsys.readouterr().err


def test_list_keeps_to_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["eval", "list"]) == 0
    assert main(["eval", "list", "pope", "vqav2"]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 60 or " " not in line.strip() for line in printed.splitlines())  # a long name stays whole


@pytest.mark.parametrize(
    ("task", "words"), [("llava_bench", "set OPENAI_API_KEY"), ("pope", "no judge reads the answers to pope")]
)
def test_judge_that_cannot_be_used_is_said_before_the_model_is_asked(data, tmp_path, monkeypatch, capsys, task, words):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    run = ["eval", "run", task, "--data-dir", str(data), "--output", str(tmp_path / "out"), "--judge", "gpt"]
    assert main([*run, "--model-path", "no-such-model"]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
