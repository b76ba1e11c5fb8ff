"""What comes out of an evaluation: each question with its answer and verdict, and the scores of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .item import Problem, Question
from .scores.result import Scores
from .tasks.task import Task


@dataclass(frozen=True)
class Answered:
    """A question with its answer.

    output: the model's raw text; None if it could not be asked, and `problem` says why. finish_reason: "stop",
    "length" or "context". judgement: the texts of a judge, one for each time it was asked; empty where there is no
    judge. parsed: what the rule read in the answer, None if nothing. credit: from 0 to 1; None where a single answer
    has no score of its own, or the right answer is not known.
    """

    question: Question
    output: str | None
    problem: str = ""
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    judgement: tuple[str, ...] = ()
    parsed: Any = None
    credit: float | None = None

    @property
    def is_failed(self) -> bool:
        """Whether there is an answer in which the rule found nothing."""
        return self.credit is not None and self.parsed is None


@dataclass(frozen=True)
class TaskResult:
    """The answers to a task, in the order of its files, and their scores.

    style: of the prompts, "" if they are not known. scores: None if no answer could be scored. problems: rows that were
    damaged and questions that could not be asked; they are in no score. num_questions: in the files, if fewer were
    asked. judge: name of the judge model, "" without one.
    """

    task: Task
    style: str
    rule: str
    answered: tuple[Answered, ...]
    scores: Scores | None
    problems: tuple[Problem, ...] = ()
    num_questions: int = 0
    judge: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_answers(self) -> int:
        return sum(one.output is not None for one in self.answered)


@dataclass(frozen=True)
class Saved:
    """The answer to a question as it was saved, before it is scored. problem: why there is none."""

    output: str | None
    problem: str = ""
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    judgement: tuple[str, ...] = field(default=())
