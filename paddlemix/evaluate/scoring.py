"""From the saved answers to a task to its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .item import Loaded, Problem, Question, named
from .results import Answered, Saved, TaskResult
from .scores.result import Item, Scores
from .tasks.task import Task

MISSING = "there is no answer"
UNSCORED = "it cannot be scored"
NO_NUMBER = ("invalid literal for int()", "could not convert string to float")  # Python's errors, not a scorer's
# What scorers raise for fields of another type or with other values than their files should have.
UNUSABLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


def score_task(
    task: Task,
    loaded: Loaded,
    saved: Mapping[str, Saved],
    *,
    rule: str | None = None,
    style: str = "",
    judge: str = "",
    num_questions: int = 0,
) -> TaskResult:
    """Return the answers to a task with their verdicts and scores.

    saved: by the id of the question. rule: the task's own without one; see `Task.scorer`. num_questions: in the files,
    if `loaded` has only the first of them. Questions without an answer, those that could not be asked, and those whose
    fields the scorer cannot use are in no score; they are among the problems. Raises ValueError for a rule that the
    task does not have.
    """
    rule = rule_of(task, rule)
    answered = tuple(_answered(task, one, saved.get(one.id) or Saved(None, MISSING), rule) for one in loaded.questions)
    answered, scores = _scored(task, answered, rule)
    problems = [*loaded.problems, *(_problem(task, one) for one in answered if one.problem)]
    return TaskResult(
        task,
        style,
        rule,
        answered,
        scores,
        tuple(problems),
        num_questions or len(loaded.questions),
        judge,
        tuple(_notes(task, answered)),
    )


def rule_of(task: Task, name: str | None) -> str:
    """Return a rule of a task's scorer, the task's own without a name. Raises ValueError that names those it has."""
    if name is not None and name not in task.scorer.rules:
        raise ValueError(f"{task.name} has no rule {name!r}: it has {', '.join(task.scorer.rules)}")
    return name or task.rule


def check_answers(task: Task, loaded: Loaded, rule: str | None) -> None:
    """Raise ValueError that names the questions of a user's file whose right answer a rule cannot use."""
    if task.check is None:
        return
    problems, rule, file = [], rule_of(task, rule), loaded.files[0]
    for one in loaded.questions:
        try:
            if task.needs in one.fields:
                task.check(one.fields, rule)
        except ValueError as error:
            problems.append(Problem(file.name, str(error), one.id))
    if problems:
        found = named(problems, "problem")
        raise ValueError(f"{file} does not suit the rule {rule!r}: correct it, or choose another rule; {found}")


def unscored(question: Question, saved: Saved) -> Answered:
    """Return a question with its answer, without a verdict."""
    return Answered(
        question, saved.output, saved.problem, saved.finish_reason, saved.num_prompt_tokens, saved.judgement
    )


def _answered(task: Task, question: Question, saved: Saved, rule: str) -> Answered:
    one = unscored(question, saved)
    if task.scorer.judge is None or not _is_scored(task, one):
        return one
    try:
        verdict = task.scorer.judge(_items(task, one)[0], rule)
    except UNUSABLE as error:
        return replace(one, problem=_unusable(error))
    return replace(one, parsed=verdict.parsed, credit=verdict.credit)


def _scored(task: Task, answered: Sequence[Answered], rule: str) -> tuple[tuple[Answered, ...], Scores | None]:
    """Return the answers and their scores. If the scorer refuses them, those that it refuses alone are left out."""
    try:
        return tuple(answered), _scores(task, answered, rule)
    except UNUSABLE:
        kept = tuple(_refused_alone(task, one, rule) for one in answered)
        return kept, _scores(task, kept, rule)


def _scores(task: Task, answered: Sequence[Answered], rule: str) -> Scores | None:
    items = [item for one in answered if _is_scored(task, one) for item in _items(task, one)]
    return task.scorer.score(items, rule) if items else None


def _refused_alone(task: Task, one: Answered, rule: str) -> Answered:
    """Return an answer; with a problem and without a verdict if it cannot be scored on its own."""
    try:
        _scores(task, [one], rule)
    except UNUSABLE as error:
        return replace(one, problem=_unusable(error), parsed=None, credit=None)
    return one


def _unusable(error: Exception) -> str:
    """Return why a question is in no score, for a reader who knows the benchmark's files and not this code."""
    if isinstance(error, KeyError):
        return f"{UNSCORED}: its file does not give {error}"
    if isinstance(error, ValueError) and not str(error).startswith(NO_NUMBER):
        return f"{UNSCORED}: {error}"
    return f"{UNSCORED}: one of its fields has another type or form than in the benchmark's own files ({error})"


def _is_scored(task: Task, one: Answered) -> bool:
    """Return whether there is a good answer, the right one is known, and the judge has read it where there is one."""
    has_verdict = bool(one.judgement) or not task.has_judge
    return one.output is not None and not one.problem and task.needs in one.question.fields and has_verdict


def _items(task: Task, one: Answered) -> list[Item]:
    """Return what the scorer gets: the judge's texts are beside the answer."""
    read: dict[str, Any] = {"review": one.judgement[0], "grades": one.judgement} if task.has_judge else {}
    return [{**item, **read} for item in one.question.scored(one.output)]


def _problem(task: Task, one: Answered) -> Problem:
    return Problem(task.name, one.problem, one.question.id)


def _notes(task: Task, answered: Sequence[Answered]) -> list[str]:
    """Return what a reader of the figures has to know."""
    asked = [one for one in answered if one.output is not None]
    notes = [f"{count} of {len(answered)} questions {text}" for count, text in _counts(task, answered, asked) if count]
    has_ocr = {one.question.has_ocr for one in answered} - {None}
    if has_ocr:
        notes.append(f"OCR tokens in the prompt: {' and '.join(sorted('yes' if one else 'no' for one in has_ocr))}")
    return notes


def _counts(task: Task, answered: Sequence[Answered], asked: Sequence[Answered]) -> list[tuple[int, str]]:
    is_judged = [bool(one.judgement) for one in asked] if task.has_judge else []
    return [
        (len(answered) - len(asked), "have no answer; they are not in the figures"),
        (sum(task.needs not in one.question.fields for one in asked), task.unanswered),
        (is_judged.count(False), "have not been read by a judge: --judge names one"),
        (sum(one.finish_reason in ("length", "context") for one in asked), "were cut at the limit of tokens"),
    ]
