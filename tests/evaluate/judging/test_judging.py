"""Answers are judged once, whatever happens meanwhile, and a judgement is never made up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import benchmark_files
import pytest
from fake_judge import KEY, LIMITS, FakeJudge, completion, refusal, running

from paddlemix.evaluate.item import Question
from paddlemix.evaluate.judging.ask import judge_all, saved_judgements
from paddlemix.evaluate.judging.judge import Judge
from paddlemix.evaluate.judging.replies import JudgeError
from paddlemix.evaluate.judging.rules import protocol_of
from paddlemix.evaluate.results import Saved
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.tasks import task_of
from paddlemix.evaluate.tasks.task import load

REVIEW, MMVET = task_of("llava_bench"), task_of("mmvet")
TESTS = Path(__file__).parent


def review_questions(count: int) -> list[Question]:
    fields = {"context": "A volcano.", "question": "Where?", "reference": "There.", "category": "llava_bench_conv"}
    return [Question(str(number), ("Where?",), fields=fields) for number in range(count)]


def answers_to(questions, start: str = "answer") -> dict[str, Saved]:
    return {one.id: Saved(f"{start} {one.id}") for one in questions}


def judge_of(server: FakeJudge, model: str = "gpt-test") -> Judge:
    return Judge(model, server.url, KEY, limits=LIMITS)


def judged(server, questions, path, *, saved=None, task=REVIEW, model="gpt-test", rules=None, num_runs=1, **more):
    saved = answers_to(questions) if saved is None else saved
    protocol = protocol_of(task, rules, num_runs=num_runs)
    return judge_all(task, questions, saved, judge_of(server, model), path, protocol, is_shown=False, **more)


def texts_of(server: FakeJudge) -> list[str]:
    return [body["messages"][-1]["content"] for body in server.seen]


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "llava_bench" / "judgements.jsonl"


def test_review_asks_as_llava_does(server, path, tmp_path):
    benchmark_files.gpt_review(tmp_path / "data")
    task = task_of("gpt_review")
    loaded = load(task, tmp_path / "data")
    rule = {"detail": {"role": "Bot", "prompt": "Compare."}}
    (tmp_path / "rule.json").write_text(json.dumps(rule), encoding="utf-8")
    found = judged(server, loaded.questions, path, task=task, saved={"0": Saved("Red.")}, rules=tmp_path / "rule.json")
    box = "suitcase: [0.1, 0.2, 0.3, 0.4]"
    content = (
        f"[Context]\nTwo cases.\nOld cases.\n\n{box}\n{box}\n\n[Question]\nWhat color?\n\n"
        "[Bot 1]\nBrown.\n\n[End of Bot 1]\n\n[Bot 2]\nRed.\n\n[End of Bot 2]\n\n[System]\nCompare.\n\n"
    )
    system = "You are a helpful and precise assistant for checking the quality of the answer."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    assert server.seen == [{"model": "gpt-test", "messages": messages, "temperature": 0.2, "max_tokens": 1024}]
    assert found.texts == {"0": ("8 9\nBecause.",)} and "instructions of the judge: rule.json" in found.notes[1]


def test_every_category_of_a_review_has_a_rule_of_our_own_that_asks_for_two_numbers():
    for task, prefix in ((task_of("gpt_review"), ""), (REVIEW, "llava_bench_")):
        for kind in ("conv", "detail", "complex"):
            fields = {"context": "c", "question": "q", "reference": "r", "category": prefix + kind}
            text = protocol_of(task).messages(fields, "a")[1]["content"]
            assert "first line" in text and ("box" in text) is (not prefix)


def test_mmvet_completes_the_last_row_of_a_table(path):
    fields = {"question": "What is x?", "answer": "-1<AND>-5", "capabilities": ["math"]}
    question = Question("v1_0", ("What is x?",), fields=fields)
    with running(lambda body: "0.5") as server:
        found = judged(server, [question], path, saved={"v1_0": Saved("x = -1")}, task=MMVET, num_runs=5)
        assert len(server.seen) == 5
    (text,) = set(texts_of(server))
    assert text.splitlines()[-1] == "What is x? | -1 <AND> -5 | x = -1 | "
    assert {body["temperature"] for body in server.seen} == {0.0} and len(server.seen[0]["messages"]) == 1
    assert found.texts == {"v1_0": ("0.5",) * 5}


def test_own_table_of_mmvet_replaces_ours_and_is_named(path, tmp_path):
    (tmp_path / "table.txt").write_text("Question | Truth | Prediction | Correctness\n", encoding="utf-8")
    fields = {"question": "What is x?", "answer": "1", "capabilities": ["math"]}
    with running(lambda body: "0.5") as server:
        questions = [Question("v1_0", ("What is x?",), fields=fields)]
        found = judged(server, questions, path, task=MMVET, rules=tmp_path / "table.txt")
    expected = "Question | Truth | Prediction | Correctness\n\nWhat is x? | 1 | answer v1_0 | "
    assert texts_of(server) == [expected]
    assert any("table.txt" in note for note in found.notes)


def test_judgements_give_the_scores_of_a_task(server, path, tmp_path):
    benchmark_files.llava_bench(tmp_path / "data")
    loaded = load(REVIEW, tmp_path / "data")
    saved = answers_to(loaded.questions)
    result = score_task(REVIEW, loaded, judged(server, loaded.questions, path).add_to(saved))
    assert result.scores.value() == 112.5 and not result.problems
    again = score_task(REVIEW, loaded, saved_judgements(loaded.questions, saved, path).add_to(saved))
    assert again.scores == result.scores


def test_requests_run_side_by_side(server, path):
    server.seconds = 0.05
    assert len(judged(server, review_questions(20), path, num_parallel=4).texts) == 20
    assert 1 < server.most_running <= 4


def test_what_the_journal_has_is_not_asked_again(server, path):
    questions = review_questions(5)
    first = judged(server, questions[:3], path)
    again = judged(server, questions, path)
    assert len(server.seen) == 5 and list(again.texts) == list("01234")
    assert first.texts.items() <= again.texts.items()


def test_more_runs_ask_only_for_those_that_are_missing(path):
    fields = {"question": "What is x?", "answer": "1", "capabilities": ["math"]}
    questions = [Question("v1_0", ("What is x?",), fields=fields)]
    grades = iter(["0.1", "0.2", "0.3"])
    with running(lambda body: next(grades)) as server:
        one = judged(server, questions, path, task=MMVET)
        three = judged(server, questions, path, task=MMVET, num_runs=3, num_parallel=1)
        again = judged(server, questions, path, task=MMVET)
    assert one.texts == again.texts == {"v1_0": ("0.1",)} and three.texts == {"v1_0": ("0.1", "0.2", "0.3")}


def test_answers_that_lack_runs_are_left_out_and_counted(server, path):
    fields = {"question": "What is x?", "answer": "1", "capabilities": ["math"]}
    questions = [Question(name, ("What is x?",), fields=fields) for name in ("v1_0", "v1_1")]
    server.answer = lambda body: "0.5"
    judged(server, questions, path, task=MMVET, num_runs=2)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    found = saved_judgements(questions, answers_to(questions), path)
    assert len(found.texts) == 1 and "1 answer judged fewer than 2 times" in found.notes[-1]


def test_changed_answers_and_instructions_are_judged_again(server, path, tmp_path):
    questions = review_questions(3)
    judged(server, questions, path)
    saved = {**answers_to(questions), "1": Saved("another answer")}
    assert set(saved_judgements(questions, saved, path).texts) == {"0", "2"}
    assert "1 answer changed after judging" in saved_judgements(questions, saved, path).notes[-1]
    judged(server, questions, path, saved=saved)
    assert len(server.seen) == 4 and "another answer" in texts_of(server)[3]
    rule = {"llava_bench_conv": {"role": "Bot", "prompt": "Compare."}}
    (tmp_path / "rule.json").write_text(json.dumps(rule), encoding="utf-8")
    judged(server, questions, path, saved=saved, rules=tmp_path / "rule.json")
    assert len(server.seen) == 7 and texts_of(server)[6].endswith("[System]\nCompare.\n\n")
    notes = saved_judgements(questions, saved, path).notes
    assert any("rule.json" in note for note in notes) and not any("own" in note for note in notes)


@pytest.mark.parametrize("cut", [1, 2, 10])  # the first takes the end of the line alone
def test_last_line_that_was_cut_is_repaired(server, path, cut):
    questions = review_questions(3)
    judged(server, questions, path, num_parallel=1)
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert len(saved_judgements(questions, answers_to(questions), path).texts) == 2
    judged(server, questions, path)
    assert len(server.seen) == 4
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "1", "2"]


def test_damaged_line_in_the_middle_is_named(server, path):
    path.parent.mkdir()
    path.write_text('{"id": "0"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*judgements.jsonl is no judgement: remove the line"):
        judged(server, review_questions(1), path)


def test_journal_of_another_judge_is_refused_by_name(server, path):
    judged(server, review_questions(1), path)
    with pytest.raises(ValueError, match=r"judgements of gpt-test, and the judge is gpt-other: .* do not compare"):
        judged(server, review_questions(1), path, model="gpt-other")
    assert len(server.seen) == 1


def test_journal_names_the_judge_and_never_the_key(server, path):
    found = judged(server, review_questions(1), path)
    (line,) = path.read_text().splitlines()
    row = json.loads(line)
    assert (row["id"], row["judge"], row["rules"], row["served"]) == ("0", "gpt-test", "paddlemix", "gpt-test-0613")
    assert row["texts"] == ["8 9\nBecause."] and KEY not in line
    assert found.judge == "gpt-test" and found.notes[0] == "judged by gpt-test (served as gpt-test-0613)"


def test_unreadable_judgement_is_asked_for_again_up_to_three_times(path):
    replies = iter(["I think", "Assistant 1 wins", "9", "8 7\nso"])
    with running(lambda body: next(replies)) as server:
        assert judged(server, review_questions(1), path).texts == {"0": ("8 7\nso",)}
    first, *others = texts_of(server)
    assert len(others) == 3 and all(text.startswith(first.rstrip()) and "two numbers" in text for text in others)


def test_judgement_that_stays_unreadable_is_kept_and_counts_as_failed(path, tmp_path):
    benchmark_files.mmvet(tmp_path / "data")
    loaded = load(MMVET, tmp_path / "data")
    with running(lambda body: "good") as server:
        found = judged(server, loaded.questions, path, task=MMVET)
    assert [body["temperature"] for body in server.seen] == [0.0, 0.5, 1.0, 1.5]
    scores = score_task(MMVET, loaded, found.add_to(answers_to(loaded.questions))).scores
    assert (scores.value(), scores.num_failed) == (0, 1)


def test_question_whose_judge_failed_has_no_judgement_and_is_asked_again(path):
    questions = review_questions(3)
    fails = True

    def answer(body: dict) -> str:
        if fails and "answer 1" in body["messages"][1]["content"]:
            raise OSError("the connection breaks")
        return "8 9"

    with running(answer) as server:
        found = judged(server, questions, path)
        assert set(found.texts) == {"0", "2"}
        (problem,) = found.problems
        assert problem.id == "1" and "no judgement" in str(problem) and "(4 tries)" in str(problem)
        fails = False
        seen = len(server.seen)
        assert set(judged(server, questions, path).texts) == {"0", "1", "2"} and len(server.seen) == seen + 1


def test_judge_that_fails_again_and_again_is_left_alone(server, path):
    questions = review_questions(30)
    judged(server, questions[:1], path)
    server.failures = [refusal(500, "oh")] * 1000
    found = judged(server, questions, path, num_parallel=2)
    assert len(found.texts) == 1 and len(found.problems) == 29
    assert "times in a row" in str(found.problems[-1])
    assert len(server.seen) <= 1 + 6 * 4


def test_wrong_key_ends_the_run_with_one_error(server, path):
    server.failures = [refusal(401, "wrong")] * 100
    with pytest.raises(JudgeError, match="does not accept the key"):
        judged(server, review_questions(50), path)
    assert len(server.seen) <= 8 and path.read_text() == ""


def test_request_that_alone_is_refused_is_a_problem_of_its_question(path):
    with running() as server:
        judged(server, review_questions(1), path)
        server.failures = [refusal(400, "the context is too long", code="context_length_exceeded")]
        found = judged(server, review_questions(4), path, num_parallel=1)
        assert [problem.id for problem in found.problems] == ["1"]
        assert "the context is too long" in str(found.problems[0])
        assert set(found.texts) == {"0", "2", "3"}
        server.failures = [refusal(400, "the context is too long")]
        assert judged(server, review_questions(4), path) == found


def test_settings_that_are_always_refused_are_one_error(server, path):
    server.failures = [refusal(400, "unknown field")] * 100
    with pytest.raises(JudgeError, match="unknown field"):
        judged(server, review_questions(50), path, num_parallel=1)
    assert len(server.seen) == 3


def test_limit_that_leaves_no_text_is_one_error(server, path):
    server.failures = [(200, {}, completion("", finish_reason="length"))] * 100
    with pytest.raises(JudgeError, match="limit 1024 tokens"):
        judged(server, review_questions(1), path)


def test_questions_without_answer_are_not_judged_and_without_context_are_named(server, path):
    questions = review_questions(3)
    bare = Question("3", ("Where?",), fields={"reference": "r", "question": "q", "category": "llava_bench_conv"})
    saved = {**answers_to([*questions[:2], bare]), "1": Saved(None, "no image")}
    found = judged(server, [*questions, bare], path, saved=saved)
    assert set(found.texts) == {"0"} and "the files have no context" in str(found.problems[0])


def test_category_that_a_rule_file_lacks_is_named(server, path, tmp_path):
    (tmp_path / "rule.json").write_text(json.dumps({"math": {"role": "A", "prompt": "b"}}), encoding="utf-8")
    with pytest.raises(ValueError, match="has no rule for the category 'llava_bench_conv'; it has math"):
        judged(server, review_questions(1), path, rules=tmp_path / "rule.json")


@pytest.mark.parametrize(
    ("task", "num_runs", "text"),
    [("gqa", 1, "scored without a judge"), ("llava_bench", 2, "judged once"), ("mmvet", 0, "expected 1 or more")],
)
def test_protocol_that_makes_no_sense_is_refused(task, num_runs, text):
    with pytest.raises(ValueError, match=text):
        protocol_of(task_of(task), num_runs=num_runs)


KILLED = """
import sys
sys.path[:0] = {tests!r}
import test_judging
test_judging.judge_in_a_process({url!r}, {path!r})
"""


def judge_in_a_process(url: str, path: str) -> None:
    questions = review_questions(12)
    judge = Judge("gpt-test", url, KEY, limits=LIMITS)
    judge_all(REVIEW, questions, answers_to(questions), judge, path, protocol_of(REVIEW), num_parallel=1)


def test_killed_in_the_middle_and_run_again_loses_and_repeats_nothing(server, path):
    server.seconds = 0.3  # so that it is killed seconds before it would be done
    code = KILLED.format(tests=[str(TESTS), str(TESTS.parent)], url=server.url, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(server.seen) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    server.seconds = 0
    written = path.read_bytes().count(b"\n")
    assert 3 <= written < 12
    found = judged(server, review_questions(12), path)
    assert len(found.texts) == 12 and path.read_bytes().count(b"\n") == 12
    # Only the request that was on its way when the process was killed can have been sent twice.
    assert len(texts_of(server)) <= 13 and len(set(texts_of(server))) == 12
