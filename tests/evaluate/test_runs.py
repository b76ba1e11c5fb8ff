"""Runs of benchmarks: the same files however the work is cut, killed or divided, and never mixed with other runs."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from PIL import Image

from paddlemix.evaluate import outputs
from paddlemix.evaluate import run as runs
from paddlemix.evaluate.identity import model_facts, weights_fingerprint
from paddlemix.evaluate.journal import Journal
from paddlemix.evaluate.outputs import finish
from paddlemix.evaluate.results import Saved
from paddlemix.evaluate.run import Plan, Share, answer, claim, prepare
from paddlemix.evaluate.tasks import task_of
from paddlemix.generate.requests import Request, answer_all
from paddlemix.generate.sampling import SamplingParams
from paddlemix.output import OutputError

ROOT = Path(__file__).parents[2]
NUM = 12


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def questions(tmp_path):
    """Return a file of NUM questions about four images."""
    random_pixels = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = random_pixels.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    rows = [
        {"id": f"q{number}", "question": f"What is number {number}?", "image": f"{number % 4}.png", "answer": "x"}
        for number in range(NUM)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan_of(questions, output, **changes):
    return Plan(questions, output, max_new_tokens=6, **changes)


def run(parts, plan, share=None, task="custom", **facts):
    """Answer a task in this process; return the bytes of its answers."""
    model, processor = parts
    work = prepare(task_of(task), plan)
    facts = {**model_facts(model, processor, "tiny", None), **facts}
    answer(work, plan, model, processor, facts, share or Share())
    path = plan.output / task / "answers.jsonl"
    return path.read_bytes() if path.is_file() else b""


def test_answers_are_in_the_order_of_the_file_and_those_of_each_question_alone(parts, questions, tmp_path):
    plan = plan_of(questions, tmp_path / "out")
    rows = [json.loads(line) for line in run(parts, plan).splitlines()]
    assert [row["id"] for row in rows] == [f"q{number}" for number in range(NUM)]
    for number in (0, 5):
        request = Request(f"What is number {number}?", [questions.parent / "images" / f"{number % 4}.png"])
        (alone,) = answer_all(*parts, [request], SamplingParams(max_new_tokens=6))
        assert rows[number]["output"] == alone.text.strip()
        assert rows[number]["prompt"] == f"<image>\nWhat is number {number}?"
    assert not list((tmp_path / "out" / "custom").glob("journal-*"))
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())["tasks"]["custom"]
    assert recorded["identity"]["decoding"]["max_new_tokens"] == 6 and recorded["num_asked"] == NUM
    assert recorded["files"][0]["bytes"] == questions.stat().st_size
    finish([prepare(task_of("custom"), plan)], plan)
    scored = [json.loads(line) for line in (tmp_path / "out/custom/answers.jsonl").read_text().splitlines()]
    assert [{**row, "parsed": "", "credit": 0.0} for row in rows] == [{**row, "parsed": ""} for row in scored]


def test_answers_of_another_model_are_refused_with_both_names(parts, questions, tmp_path):
    run(parts, plan_of(questions, tmp_path / "out"))
    named = (
        r'with weights "\w{8}\.\.\." \(of the model tiny\) where this one has "other" \(of the model 7b; a converted'
    )
    with pytest.raises(OutputError, match=named):
        run(parts, plan_of(questions, tmp_path / "out"), model="7b", weights="other")
    changed = r"of the model tiny then\) where .* \(of the same model now: its files have changed\): choose"
    with pytest.raises(OutputError, match=changed):
        run(parts, plan_of(questions, tmp_path / "out"), weights="other")
    with pytest.raises(OutputError, match='with dtype "float32" where this one has "float16"'):
        run(parts, plan_of(questions, tmp_path / "out"), weights="other", dtype="float16")


@pytest.mark.parametrize("limit", [None, 5])
def test_every_answer_is_scored_once_unless_an_earlier_run_asked_more(parts, questions, tmp_path, monkeypatch, limit):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    plan, counts, score_task = dataclasses.replace(plan, limit=limit), [], outputs.score_task

    def counting(task, loaded, *words, **more):
        counts.append(len(loaded.questions))
        return score_task(task, loaded, *words, **more)

    monkeypatch.setattr(outputs, "score_task", counting)
    finish([prepare(task_of("custom"), plan)], plan)
    assert counts == ([NUM] if limit is None else [5, NUM])
    lines = (tmp_path / "out/custom/answers.jsonl").read_text().splitlines()
    assert len(lines) == NUM and all("credit" in json.loads(line) for line in lines)


@pytest.mark.parametrize("changes", [{"num_at_a_time": 1}, {"num_at_a_time": 5}], ids=str)
def test_the_file_does_not_depend_on_how_many_run_side_by_side(parts, questions, tmp_path, changes):
    whole = run(parts, plan_of(questions, tmp_path / "whole"))
    assert run(parts, plan_of(questions, tmp_path / "other", **changes)) == whole


def test_sampled_answers_do_not_depend_on_the_company_either(parts, questions, tmp_path):
    files = [
        run(parts, plan_of(questions, tmp_path / str(count), temperature=1.0, num_at_a_time=count)) for count in (1, 7)
    ]
    assert files[0] == files[1]
    greedy = [run(parts, plan_of(questions, tmp_path / "greedy", seed=seed)) for seed in (0, 1)]
    assert greedy[0] == greedy[1]  # of the same folder: greedy answers with another seed are not refused
    other_seed = run(parts, plan_of(questions, tmp_path / "seed", temperature=1.0, seed=1))
    assert other_seed != files[0]


def test_a_stopped_run_asks_only_what_is_missing(parts, questions, tmp_path, monkeypatch):
    whole = run(parts, plan_of(questions, tmp_path / "whole"))
    plan, asked = plan_of(questions, tmp_path / "out"), []
    ask_all = runs.ask_all

    def stopping(*arguments, **options):
        for number, (question, saved) in enumerate(ask_all(*arguments, **options)):
            if number == 4:
                raise KeyboardInterrupt
            asked.append(question.id)
            yield question, saved

    monkeypatch.setattr(runs, "ask_all", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(parts, plan)
    log = plan.output / "custom" / "journal-0.jsonl"
    log.write_bytes(log.read_bytes()[:-9])  # as a kill in the middle of a line leaves it
    asked.pop()
    monkeypatch.setattr(
        runs, "ask_all", lambda *a, **o: (asked.append(pair[0].id) or pair for pair in ask_all(*a, **o))
    )
    assert run(parts, plan) == whole
    assert sorted(asked) == sorted(f"q{number}" for number in range(NUM))
    assert run(parts, plan) == whole and len(asked) == NUM  # nothing is asked again


def test_shares_of_processes_make_the_file_of_one(parts, questions, tmp_path, monkeypatch):
    whole = run(parts, plan_of(questions, tmp_path / "whole"))
    plan = plan_of(questions, tmp_path / "out")
    monkeypatch.setattr(runs, "SECONDS", 0.0)
    monkeypatch.setattr(runs, "_complete", lambda *arguments: None)
    assert run(parts, plan, Share(0, 3)) == b""
    for rank in (2, 1):
        run(parts, plan, Share(rank, 3))
    monkeypatch.undo()
    assert run(parts, plan) == whole  # a single process goes on with what three have answered


def test_shares_are_equal_disjoint_and_whole():
    for count in (1, 2, 3, 7):
        for number in (0, 1, 5, 100):
            shares = [list(Share(rank, count).of(range(number))) for rank in range(count)]
            assert [one for share in shares for one in share] == list(range(number))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_whose_files_do_not_appear_is_missed(parts, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE", 0.0)
    with pytest.raises(OutputError, match=r"journal of process 1 .* did not appear: all machines must see the same"):
        run(parts, plan_of(questions, tmp_path / "out"), Share(0, 2))
    with pytest.raises(OutputError, match=r"run\.json of process 0 did not appear"):
        run(parts, plan_of(questions, tmp_path / "other"), Share(1, 2))


def test_a_larger_limit_keeps_the_answers_and_a_smaller_one_loses_none(parts, questions, tmp_path):
    whole = run(parts, plan_of(questions, tmp_path / "whole"))
    output = tmp_path / "out"
    assert run(parts, plan_of(questions, output, limit=3)) == b"".join(whole.splitlines(keepends=True)[:3])
    assert run(parts, plan_of(questions, output)) == whole
    assert run(parts, plan_of(questions, output, limit=2)) == whole
    plan = plan_of(questions, output, limit=2)
    (result,) = finish([prepare(task_of("custom"), plan)], plan)
    assert (len(result.answered), result.num_questions) == (2, NUM)


@pytest.mark.parametrize(
    ("changes", "facts", "named"),
    [
        ({}, {"weights": "others"}, 'weights "'),
        ({}, {"device": "gpu"}, 'device "cpu" where this one has "gpu"'),
        ({"temperature": 0.5}, {}, "decoding {"),
        ({"max_new_tokens": 7}, {}, "decoding {"),
        ({"temperature": 0.5, "seed": 4}, {}, "decoding {"),
        ({"ocr": False}, {}, 'OCR tokens "as the style" where this one has "no"'),
    ],
)
def test_answers_of_another_run_are_refused(parts, questions, tmp_path, changes, facts, named):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    before = {path: path.read_bytes() for path in plan.output.rglob("*") if path.is_file()}
    with pytest.raises(OutputError) as failure:
        run(parts, dataclasses.replace(plan, **changes), **facts)
    assert named in str(failure.value) and "choose another output, or remove that folder" in str(failure.value)
    assert {path: path.read_bytes() for path in plan.output.rglob("*") if path.is_file()} == before


def test_changed_questions_are_refused(parts, questions, tmp_path):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    questions.write_text(questions.read_text().replace("number 3", "letter 3"))
    with pytest.raises(OutputError, match=r"holds answers of another run, with data \["):
        run(parts, plan)


def test_answers_that_no_run_has_recorded_are_refused(parts, questions, tmp_path):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    (plan.output / "run.json").write_text('{"tasks": {}}')
    with pytest.raises(OutputError, match=r"run\.json says nothing of .*: choose another output"):
        run(parts, plan)


def test_journals_of_another_run_are_refused(parts, questions, tmp_path):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    with Journal(plan.output / "custom", 1, {"weights": "others"}):
        pass
    with pytest.raises(OutputError, match='holds answers of another run, with weights "others"'):
        run(parts, plan)


@pytest.mark.parametrize("content", ["file", "folder"])
def test_a_folder_with_other_content_is_left_alone(tmp_path, content):
    output = tmp_path / "out"
    if content == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"expected a folder|is no output of an evaluation"):
        claim(output)
    (tmp_path / "new").mkdir()
    assert claim(tmp_path / "new") == claim(tmp_path / "none") == {}


def test_two_runs_do_not_write_at_the_same_time(tmp_path):
    first, second = Journal(tmp_path, 0, {}), Journal(tmp_path, 0, {})
    with first, pytest.raises(OutputError, match="another process is writing"):
        second.__enter__()
    with second:
        pass


def test_a_question_whose_image_went_missing_is_named_and_asked_again_later(parts, questions, tmp_path):
    whole = run(parts, plan_of(questions, tmp_path / "whole"))
    plan = plan_of(questions, tmp_path / "out")
    work = prepare(task_of("custom"), plan)
    image = questions.parent / "images" / "2.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    answer(work, plan, *parts, model_facts(*parts, "tiny", None), Share())
    (result,) = finish([work], plan)
    assert [problem.id for problem in result.problems] == ["q2", "q6", "q10"] and result.scores.num_items == NUM - 3
    assert all("2.png" in problem.text for problem in result.problems)
    assert result.notes[0] == "3 of 12 questions have no answer; they are not in the figures"
    image.write_bytes(content)
    assert run(parts, plan) == whole


def test_a_damaged_line_of_a_journal_is_named(parts, questions, tmp_path):
    plan = plan_of(questions, tmp_path / "out")
    run(parts, plan)
    ident = json.loads((plan.output / "run.json").read_text())["tasks"]["custom"]["identity"]
    with Journal(plan.output / "custom", 0, ident) as log:
        log.add("q1", Saved("x"))
    path = plan.output / "custom" / "journal-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": \n')
    with pytest.raises(OutputError, match=r"journal-0\.jsonl line 3 is damaged"):
        run(parts, plan)


def test_weights_are_recognized_by_every_tensor(parts):
    model, _ = tiny_folder.load("pad")
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(parts[0])
    norm = model.language_model.norm.weight
    values = norm.numpy()
    values[0] += 1e-3
    norm.set_value(values)
    assert weights_fingerprint(model) != before


def command(questions, output, *words, launcher=()):
    model = ROOT / "paddlemix" / "examples" / "llava" / "tiny" / "model"
    main = ["-m", "paddlemix", "eval", "run"] if not launcher else [*launcher]
    return [sys.executable, *main, "custom", "--model-path", str(model), "--data-dir", str(questions), "--output",
            str(output), "--device", "cpu", *words]  # fmt: skip


def test_kills_at_any_moment_leave_the_same_file(questions, tmp_path):
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    many = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(12) for row in rows]
    questions.write_text("".join(json.dumps(row) + "\n" for row in many))
    subprocess.run(command(questions, tmp_path / "whole"), check=True, capture_output=True, cwd=ROOT, timeout=600)
    whole = (tmp_path / "whole" / "custom" / "answers.jsonl").read_bytes()
    draw, output = random.Random(3), tmp_path / "out"
    log = output / "custom" / "journal-0.jsonl"
    for _ in range(3):
        process = subprocess.Popen(
            command(questions, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        size = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size <= size):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command(questions, output), check=True, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert "answers are there already" in done.stderr
    assert (output / "custom" / "answers.jsonl").read_bytes() == whole


def test_a_terminated_run_says_that_it_can_go_on(questions, tmp_path):
    output, log = tmp_path / "out", tmp_path / "out" / "custom" / "journal-0.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    many = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(40) for row in rows]
    questions.write_text("".join(json.dumps(row) + "\n" for row in many))
    process = subprocess.Popen(command(questions, output), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143 and "the same command goes on from there" in errors
    assert "Traceback" not in errors and "FatalError" not in errors


def test_two_launched_processes_write_the_file_of_one(questions, tmp_path):
    subprocess.run(command(questions, tmp_path / "whole"), check=True, capture_output=True, cwd=ROOT, timeout=600)
    script = ROOT / "paddlemix" / "examples" / "llava" / "eval" / "run.py"
    launcher = ("-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log"), script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLAGS_tcp_store_using_libuv": "0"}
    done = subprocess.run(
        [str(word) for word in command(questions, tmp_path / "out", launcher=launcher)],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = (tmp_path / "out" / "custom" / "answers.jsonl").read_bytes()
    assert found == (tmp_path / "whole" / "custom" / "answers.jsonl").read_bytes()
