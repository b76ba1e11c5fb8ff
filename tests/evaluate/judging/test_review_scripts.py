"""LLaVA's two review scripts: the same options, files and lines, for any judge, and nothing asked twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_files import write_lines
from fake_judge import KEY, FakeJudge, refusal, running
from released_reviews import review_rows

from paddlemix.cli import run_command
from paddlemix.commands import review_answers

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "paddlemix" / "examples" / "llava" / "eval"
GOLDEN = json.loads((ROOT / "tests" / "assets" / "golden_scores.json").read_text(encoding="utf-8"))
RELEASED = [case for case in GOLDEN["groups"]["summarize_gpt_review"]["cases"] if "file" in case]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the files of a review of three questions; the answers have ids, the reference's have not."""
    kinds = ("conv", "detail", "complex")
    box = {"category": "suitcase", "bbox": [0.1, 0.2, 0.3, 0.4]}
    questions = [{"question_id": n, "image": f"{n}.jpg", "text": f"Q{n}?", "category": kinds[n]} for n in range(3)]
    contexts = [{"id": n, "image": f"{n}.jpg", "captions": ["A.", "B."], "instances": [box]} for n in range(3)]
    write_lines(tmp_path / "questions.jsonl", questions)
    write_lines(tmp_path / "contexts.jsonl", contexts)
    write_lines(tmp_path / "reference.jsonl", [{"question_id": n, "text": f"R{n}", "category": "x"} for n in range(3)])
    answers = [{"question_id": n, "text": f"M{n}", "answer_id": f"id{n}", "model_id": "m"} for n in range(3)]
    write_lines(tmp_path / "answers.jsonl", answers)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return tmp_path


def review(folder: Path, server: FakeJudge, *more: str, output: str = "review.jsonl", long: bool = False) -> int:
    names = ("--question", "--context", "--answer-list", "--output") if long else ("-q", "-c", "-a", "-o")
    files = [str(folder / f"{name}.jsonl") for name in ("questions", "contexts", "reference", "answers")]
    words = [names[0], files[0], names[1], files[1], names[2], *files[2:], names[3], str(folder / output)]
    return run_command("review-answers", [*words, "--base-url", server.url, *more])


def rows_of(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["id"])


def test_review_file_is_that_of_llava(folder, capsys):
    with running(lambda body: "8 9\nBecause.") as server:
        assert review(folder, server, "--max-tokens", "99") == 0
    assert rows_of(folder / "review.jsonl")[1] == {
        "id": 2,
        "question_id": 1,
        "answer1_id": 1,
        "answer2_id": "id1",
        "category": "detail",
        "content": "8 9\nBecause.",
        "tuple": [8.0, 9.0],
    }
    body = next(body for body in server.seen if "Q1?" in body["messages"][1]["content"])
    content = body["messages"][1]["content"]
    start = "[Context]\nA.\nB.\n\nsuitcase: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nQ1?\n\n[Assistant 1]\nR1\n\n"
    assert content.startswith(start) and "[Assistant 2]\nM1\n\n" in content
    assert (body["model"], body["temperature"], body["max_tokens"]) == (review_answers.JUDGE, 0.2, 99)
    assert "3 reviews added, 0 there before" in capsys.readouterr().out


def test_long_options_and_a_rule_file_are_those_of_llava(folder):
    rules = {kind: {"role": "Bot", "prompt": f"Rule of {kind}"} for kind in ("conv", "detail", "complex")}
    (folder / "rule.json").write_text(json.dumps(rules), encoding="utf-8")
    with running() as server:
        assert review(folder, server, "--rule", str(folder / "rule.json"), long=True) == 0
    ends = {body["messages"][1]["content"].rpartition("[System]\n")[2] for body in server.seen}
    assert ends == {f"Rule of {kind}\n\n" for kind in rules}


def test_captions_of_llava_bench_have_its_categories(folder):
    write_lines(folder / "contexts.jsonl", [{"image": f"{n}.jpg", "caption": "A volcano."} for n in range(3)])
    with running() as server:
        assert review(folder, server) == 0
    assert {row["category"] for row in rows_of(folder / "review.jsonl")} == {
        f"llava_bench_{kind}" for kind in ("conv", "detail", "complex")
    }
    assert server.seen[0]["messages"][1]["content"].startswith("[Context]\nA volcano.\n\n[Question]\n")


def test_review_file_is_continued_also_after_a_cut_line(folder, capsys):
    with running() as server:
        review(folder, server)
        path = folder / "review.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:20])
        assert review(folder, server) == 0 and len(server.seen) == 5
        assert "2 reviews added, 1 there before" in capsys.readouterr().out
        assert [row["id"] for row in rows_of(path)] == [1, 2, 3]
        assert review(folder, server) == 0 and len(server.seen) == 5


def test_file_with_reviews_of_other_answers_is_refused(folder, capsys):
    with running() as server:
        review(folder, server)
        answers = [{"question_id": n, "text": "new", "answer_id": f"new{n}"} for n in range(3)]
        write_lines(folder / "answers.jsonl", answers)
        assert review(folder, server) == 1
    assert "is a review of another answer (answer2_id id" in capsys.readouterr().err


def test_review_without_points_is_asked_for_again_and_then_missing(folder, caplog):
    with running(lambda body: "no" if "Q1?" in body["messages"][1]["content"] else "8, 9") as server:
        assert review(folder, server) == 1
        assert [row["tuple"] for row in rows_of(folder / "review.jsonl")] == [[8, 9], [8, 9]]
        assert len(server.seen) == 2 + 4
        assert "1 reviews are missing: questions.jsonl (1): the review has no two numbers: 'no'" in caplog.text
        server.answer = lambda body: "7 7"
        assert review(folder, server) == 0 and len(rows_of(folder / "review.jsonl")) == 3


def test_compat_reads_as_llava_does_and_asks_once(folder):
    with running(lambda body: "no" if "Q1?" in body["messages"][1]["content"] else "8, 9") as server:
        assert review(folder, server, "--compat") == 0 and len(server.seen) == 3
    assert [row["tuple"] for row in rows_of(folder / "review.jsonl")] == [[-1, -1]] * 3


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("answers", lambda rows: rows[:2], "answers.jsonl has no row for '2': expected one for each question"),
        ("contexts", lambda rows: rows[1:], "contexts.jsonl has no row for '0.jpg'"),
        ("questions", lambda rows: [*rows, rows[0]], "questions.jsonl line 4: the question_id 0 occurs before"),
        ("questions", lambda rows: [{**rows[0], "category": "math"}], "has no rule for the category 'math'"),
        ("answers", lambda rows: [{"question_id": n} for n in range(3)], "question 0: no 'text' in it or"),
        ("contexts", lambda rows: [{**row, "instances": 3} for row in rows], "question 0: "),
    ],
)
def test_files_that_do_not_fit_are_one_line_and_exit_code_1(folder, capsys, file, change, text):
    path = folder / f"{file}.jsonl"
    write_lines(path, change([json.loads(line) for line in path.read_text().splitlines()]))
    with running() as server:
        assert review(folder, server) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and text in error
    assert not server.seen


def test_wrong_key_is_one_line_without_the_key(folder, capsys):
    with running() as server:
        server.failures = [refusal(401, f"Incorrect key {KEY}")] * 3
        assert review(folder, server) == 1
    captured = capsys.readouterr()
    assert "does not accept the key" in captured.err and KEY not in captured.err + captured.out


def test_interrupt_ends_a_slow_review_at_once(folder):
    with running(lambda body: None) as server:
        files = {"-q": "questions", "-c": "contexts", "-o": "review"}
        words = [word for option, name in files.items() for word in (option, folder / f"{name}.jsonl")]
        words += ["-a", folder / "reference.jsonl", folder / "answers.jsonl", "--base-url", server.url]
        script = [sys.executable, SCRIPTS / "eval_gpt_review_visual.py", *words]
        process = subprocess.Popen(script, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        deadline = time.monotonic() + 300
        while not server.seen:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=600)[1].strip() == "stopped" and process.returncode == 130


def test_three_answer_files_are_refused(folder, capsys):
    words = ["-q", "a", "-c", "b", "-a", "c", "d", "e", "-o", str(folder / "x")]
    assert run_command("review-answers", words) == 1
    assert "--answer-list has 3 files, expected 2" in capsys.readouterr().err


def summarize(*words: str | Path) -> int:
    return run_command("summarize-reviews", [str(word) for word in words])


@pytest.mark.parametrize("case", RELEASED, ids=lambda case: Path(case["file"]).stem)
def test_released_reviews_give_the_lines_of_llava(case, tmp_path, capsys):
    name = Path(case["file"]).name
    write_lines(tmp_path / name, review_rows(Path(name).stem))
    assert summarize("-f", tmp_path / name) == 0
    assert capsys.readouterr().out.splitlines() == case["printed"]


def row(points, **more) -> dict:
    return {"question_id": 1, "category": "conv", "tuple": points, **more}


@pytest.fixture
def reviews(tmp_path):
    for name in ("gpt4_text_b.jsonl", "reviews_0613-a.jsonl", "review_c.jsonl", "other.jsonl", "reviews_d.json"):
        write_lines(tmp_path / name, [row([8, 9]), row([6, 3], question_id=2)])
    return tmp_path


def titles(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(("all", "conv", "="))]


def test_files_are_found_sorted_and_selected_as_llava_does(reviews, capsys):
    for words, expected in (
        ([], ["b", "review_c", "reviews_0613-a"]),
        (["-v", "0613"], ["reviews_0613-a"]),
        (["-v", "0314"], ["b", "review_c"]),
        (["-s", "review", "c"], ["review_c"]),
        (["--format", "v1"], ["GPT-4 vs. b", "GPT-4 vs. reviews_0613-a"]),
        (["-f", "other.jsonl"], ["other"]),
    ):
        assert summarize("-d", reviews, *words) == 0
        assert titles(capsys.readouterr().out) == expected


def test_any_file_of_a_folder_called_review_is_one(tmp_path, capsys):
    write_lines(tmp_path / "reviews" / "x.jsonl", [row([8, 9])])
    assert summarize("-d", tmp_path / "reviews") == 0
    assert titles(capsys.readouterr().out) == ["x"]


def test_lines_of_both_versions(reviews, capsys):
    assert summarize("-d", reviews, "-s", "b", "-i", "2") == 0
    end = "=" * 33
    assert capsys.readouterr().out.splitlines() == ["b", "all 112.5 80.0 90.0", "conv 112.5 80.0 90.0", end]
    assert summarize("-d", reviews, "-s", "b", "--format", "v1") == 0
    expected = ["GPT-4 vs. b", "all [7.0, 6.0] 85.7", "conv [7.0, 6.0] 85.7", end]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-f", "zero.jsonl"], "zero.jsonl: The reference has 0 points"),
        (["-f", "bad.jsonl"], "bad.jsonl line 1 is no review: expected an object with two numbers under 'tuple'"),
        (["-f", "none.jsonl"], "none.jsonl cannot be read"),
        (["-s", "nothing"], "leave none of 3 review files"),
        (["-d", "empty"], "empty has no review files: expected gpt4_text*.jsonl"),
    ],
)
def test_wrong_inputs_are_one_line_and_exit_code_1(reviews, monkeypatch, capsys, words, text):
    monkeypatch.chdir(reviews)
    write_lines(reviews / "zero.jsonl", [row([0, 9])])
    write_lines(reviews / "bad.jsonl", [row([9])])
    (reviews / "empty").mkdir()
    assert summarize(*words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and text in error


@pytest.mark.parametrize("name", ["eval_gpt_review_visual", "eval_gpt_review_bench", "summarize_gpt_review"])
def test_script_runs_as_a_file(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0 and f"usage: {name}.py" in done.stdout, done.stderr
