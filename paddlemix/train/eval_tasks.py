"""The setting `eval_tasks`: benchmarks that a run answers at each evaluation, checked and read. Needs no paddle."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.mixture import check_exists
from ..evaluate.item import Loaded, Problem, named
from ..evaluate.results import Saved
from ..evaluate.scores.result import Scores
from ..evaluate.scoring import UNSCORED, rule_of, score_task
from ..evaluate.tasks import task_of
from ..evaluate.tasks.task import Task, load, without_answer
from ..foreign_json import TEXT, Kind, check_values, whole_number

PREFIX = "eval_"  # of the metrics of an evaluation
COUNT = whole_number(1, 1 << 30)
KINDS: dict[str, Kind] = {
    "task": TEXT,
    "data_dir": TEXT,
    "name": Kind(
        lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", value, re.ASCII),
        "at most 64 letters, digits, _ and -",
    ),
    "rule": TEXT,
    "style": TEXT,
    "limit": COUNT,
    "max_new_tokens": COUNT,
}
# Metrics that an evaluation has anyway, and parts of names that paddlenlp formats as times and sizes.
TAKEN = frozenset(
    "loss ppl runtime samples_per_second steps_per_second skipped_rows cut_rows dropped_turns".split()
)  # without the prefix
TAKEN_PARTS = ("skipped_", "_mem_", "_runtime")
LOSS = ("loss", "eval_loss")


@dataclass(frozen=True)
class TaskSetting:
    """One entry of `eval_tasks`, checked. limit: of the questions. max_new_tokens: None for the style's."""

    task: Task
    data_dir: str
    name: str
    rule: str
    style: str
    limit: int | None
    max_new_tokens: int | None


@dataclass(frozen=True)
class EvalTask:
    """A benchmark with its questions. loaded: those to ask, each with its right answer. num_questions: in the files.

    figures: names of its metrics by the scorer's names, the main one first; figures of categories have none.
    """

    setting: TaskSetting
    loaded: Loaded
    num_questions: int
    figures: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def main(self) -> str:
        """The name of the metric that papers report."""
        return PREFIX + self.name

    def metrics(self, scores: Scores) -> dict[str, float | None]:
        """Return the values of the metrics; None for one that is not defined for these answers."""
        return {metric: scores.figures[figure].value for figure, metric in self.figures.items()}

    def summary(self) -> str:
        """Return one line, to stand behind the name: what is asked and how, and what is wrong with the files."""
        of_all = f" of {self.num_questions:,}" if len(self.loaded.questions) < self.num_questions else ""
        setting = self.setting
        max_new_tokens = setting.max_new_tokens or setting.task.style(setting.style).max_new_tokens
        found = f"; {named(self.loaded.problems, 'problem')}" if self.loaded.problems else ""
        what = "" if self.name == setting.task.name else f"{setting.task.name}, "
        return (
            f"{what}{len(self.loaded.questions):,}{of_all} questions, prompts {setting.style}, rule {setting.rule}, "
            f"up to {max_new_tokens:,} tokens{found}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        setting = self.setting
        return {
            "name": setting.name,
            "task": setting.task.name,
            "style": setting.style,
            "rule": setting.rule,
            "num_questions": self.num_questions,
            "num_asked": len(self.loaded.questions),
            "metrics": list(self.figures.values()),
            "problems": list(map(str, self.loaded.problems)),
        }

    def fingerprint(self) -> str:
        """Return a hash of what the figures depend on beside the model; the images count by their number only."""
        setting = self.setting
        asked = [[one.id, one.pieces, one.fields] for one in self.loaded.questions]
        values = [setting.task.name, setting.rule, setting.style, setting.max_new_tokens, asked]
        return hashlib.sha256(json.dumps(values, default=str, sort_keys=True).encode()).hexdigest()


def parse_tasks(values: Sequence[Mapping[str, Any]] | None) -> list[TaskSetting]:
    """Check the entries of `eval_tasks` without opening files.

    Raises ValueError that names the entry for unknown keys, tasks, rules and styles, tasks that need a judge, and two
    entries of a name.
    """
    settings: list[TaskSetting] = []
    for number, value in enumerate(values or (), start=1):
        setting = _parse(value, f"eval_tasks, entry {number}")
        if setting.name.lower() in [one.name.lower() for one in settings]:  # some file systems ignore the case
            raise ValueError(
                f"eval_tasks, entry {number}: the name {setting.name!r} occurs before: give each entry a 'name' of its "
                "own"
            )
        settings.append(setting)
    return settings


def _parse(value: Mapping[str, Any], owner: str) -> TaskSetting:
    value = {key: one for key, one in value.items() if one is not None}
    _check_keys(value, owner)
    try:
        task = task_of(value["task"])
        style = value.get("style") or next(iter(task.styles))
        decoding = task.style(style)
        rule = rule_of(task, value.get("rule"))
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None
    if task.has_judge:
        raise ValueError(
            f"{owner}: a judge model reads the answers to {task.name}, and a training run asks none: take a task "
            f"without a judge, and evaluate the result with `paddlemix eval run {task.name}`"
        )
    if decoding.temperature > 0:
        raise ValueError(
            f"{owner}: the style {style!r} of {task.name} draws its answers at random (temperature "
            f"{decoding.temperature:g}), and answers are greedy here: take another style"
        )
    name = value.get("name", task.name)
    return TaskSetting(task, value["data_dir"], name, rule, style, value.get("limit"), value.get("max_new_tokens"))


def _check_keys(value: Mapping[str, Any], owner: str) -> None:
    for key in value:
        if key not in KINDS:
            near = difflib.get_close_matches(str(key), KINDS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{owner}: unknown key {key!r}{hint}; known are {', '.join(KINDS)}")
    for key in ("task", "data_dir"):
        if not value.get(key):
            raise ValueError(f"{owner}: {key!r} is missing: expected {_EXPECTED[key]}")
    check_values(value, KINDS, owner)


_EXPECTED = {
    "task": 'a benchmark, or "custom" for your own questions',
    "data_dir": "the folder with its files, or one file of questions",
}


def load_tasks(values: Sequence[Mapping[str, Any]] | None, config_folder: Path | None) -> tuple[EvalTask, ...]:
    """Read the questions of the entries of `eval_tasks`.

    config_folder: only for a hint if a path exists relative to it. Raises ValueError for missing files, questions
    without right answers, questions that the rule cannot score, and metrics of one name.
    """
    tasks: list[EvalTask] = []
    taken: dict[str, str] = {}
    for setting in parse_tasks(values):
        owner = f"eval_tasks {setting.name!r}"
        check_exists(setting.data_dir, os.path.exists, "data_dir", owner, config_folder)
        try:
            task = _load(setting)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from None
        for metric in task.figures.values():
            _check_free(metric, owner, taken)
            taken[metric] = owner
        tasks.append(task)
    return tuple(tasks)


def _load(setting: TaskSetting) -> EvalTask:
    task = setting.task
    found = load(task, setting.data_dir, setting.style)
    unknown = {question.id for question in without_answer(task, found.questions)}
    known = [question for question in found.questions if question.id not in unknown]
    if not known:
        reason = "their right answers are not in the files" if unknown else found.summary()
        raise ValueError(f"none of its questions can be scored: {reason}; take a split with right answers")
    problems = list(found.problems)
    problems += [Problem(task.name, "its right answer is not in the files", name) for name in sorted(unknown)]
    loaded = Loaded(tuple(known[: setting.limit]), tuple(problems), found.files)
    scores = _trial_scores(setting, loaded)
    plain = {figure: re.sub(r"\W+", "_", figure) for figure in scores.figures if "/" not in figure}
    others = {figure: f"{PREFIX}{setting.name}_{word}" for figure, word in plain.items() if figure != scores.main}
    figures = {scores.main: PREFIX + setting.name, **others}
    return EvalTask(setting, loaded, len(found.questions) + len(found.problems), figures)


def _trial_scores(setting: TaskSetting, loaded: Loaded) -> Scores:
    """Return the scores of empty answers, which tell the names of the figures.

    So a rule that cannot score the questions ends a run before its first step.
    """
    empty = {question.id: Saved("") for question in loaded.questions}
    result = score_task(setting.task, loaded, empty, rule=setting.rule)
    unusable = next((problem for problem in result.problems if problem.text.startswith(UNSCORED)), None)
    if unusable is not None:
        raise ValueError(str(unusable))
    scores = result.scores
    assert scores is not None, "every question has its right answer"
    return scores


def _check_free(metric: str, owner: str, taken: Mapping[str, str]) -> None:
    name = metric.removeprefix(PREFIX)
    if name in TAKEN or name.startswith(TAKEN_PARTS[0]) or any(part in metric for part in TAKEN_PARTS[1:]):
        raise ValueError(f"{owner}: {metric} is a metric of every evaluation, or reads like one: take another 'name'")
    if metric in taken:
        raise ValueError(f"{owner}: its metric {metric} is also one of {taken[metric]}: take another 'name'")


def check_best_metric(wanted: str | None, tasks: Sequence[EvalTask], has_rows: bool) -> None:
    """Raise ValueError for a metric_for_best_model that no evaluation of the run has.

    has_rows: it has an evaluation split, and so an evaluation loss.
    """
    if wanted is None:
        return
    metrics = [metric for task in tasks for metric in task.figures.values()]
    known = [*(["eval_loss"] if has_rows else []), *metrics]
    if with_prefix(wanted) not in known:
        lost = " (it is the default of load_best_model_at_end)" if wanted in LOSS and not has_rows else ""
        raise ValueError(f"metric_for_best_model is {wanted!r}{lost}: expected one of {', '.join(known)}")


def with_prefix(metric: str) -> str:
    """Return the full name of a metric of an evaluation, whose prefix may be left out."""
    return PREFIX + metric.removeprefix(PREFIX)


def best_metric_fact(wanted: str | None, tasks: Sequence[EvalTask]) -> dict[str, str] | None:
    """Return the metric that chooses the best checkpoint, as a fact of a run; None for the loss."""
    metric = None if wanted is None else with_prefix(wanted)
    owner = next((task for task in tasks if metric in task.figures.values()), None)
    return None if owner is None else {"name": metric, "fingerprint": f"{metric} {owner.fingerprint()}"}
