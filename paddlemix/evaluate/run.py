"""Run benchmarks: ask a model the questions of tasks, by one process or several, and write down what comes out.

OUTPUT/run.json says how the answers came about, OUTPUT/TASK/answers.jsonl holds them, and beside it lies the file that
the benchmark's server takes. OUTPUT/scores.json and OUTPUT/report.html cover all tasks of the folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..generate.engine import Engine
from ..output import OutputError, check_file, write_json
from ..terminal.log import notice
from .identity import data_files, identity
from .item import Loaded, Question
from .journal import ANSWERS, RUN, Journal, check_identity, journals_of, read_answers_file, read_journals, write_answers
from .results import Saved
from .runner import NUM_AT_A_TIME, Decoding, ask_all
from .scoring import check_answers, rule_of, unscored
from .tasks.task import Task, load

SECONDS = 0.5  # between looks at the journals of the other processes
PATIENCE = 900.0  # seconds until a process that has written nothing is missed


@dataclass(frozen=True)
class Plan:
    """What a run asks and how; None keeps what the task or its prompts say.

    data_dir: the folder with the benchmarks' files, or one file of questions. limit: questions of a task, the first
    ones. num_at_a_time: questions that are answered side by side; the answers do not depend on it.
    """

    data_dir: Path
    output: Path
    style: str | None = None
    ocr: bool | None = None
    limit: int | None = None
    rule: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int = 0
    num_at_a_time: int = NUM_AT_A_TIME


@dataclass(frozen=True)
class Share:
    """The part of the questions that this process answers: an equal part, in the order of the files."""

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> Share:
        """Return the share that `paddle.distributed.launch` gives this process."""
        return cls(int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))

    def of(self, questions: Sequence) -> Sequence:
        """Return the questions of this process. Neighbors stay together, as they often have the same image."""
        bounds = [len(questions) * part // self.count for part in (self.rank, self.rank + 1)]
        return questions[slice(*bounds)]


@dataclass(frozen=True)
class Work:
    """A task with all its questions, how they are asked, and the files that they come from. limit: see `Plan`."""

    task: Task
    loaded: Loaded
    style: str
    decoding: Decoding
    limit: int | None = None
    files: list[dict[str, Any]] = field(default_factory=list)

    @property
    def asked(self) -> tuple[Question, ...]:
        """The questions of this run."""
        return self.loaded.questions[: self.limit]


def prepare(task: Task, plan: Plan) -> Work:
    """Read the questions of a task.

    Raises ValueError for missing files, an unknown style or rule, no questions, and answers that the rule cannot use.
    """
    style = plan.style or next(iter(task.styles))
    decoding = Decoding.of(task.style(style), plan.max_new_tokens, plan.temperature, plan.seed)
    rule_of(task, plan.rule)
    loaded = load(task, plan.data_dir, style, plan.ocr)
    if not loaded.questions:
        raise ValueError(f"{task.name}: there is nothing to ask: {loaded.summary()}")
    check_answers(task, loaded, plan.rule)
    return Work(task, loaded, style, decoding, plan.limit, data_files(loaded.files))


def claim(output: Path) -> dict[str, Any]:
    """Return run.json of an output folder, or an empty object for a new or empty one.

    Raises OutputError for a folder with other content.
    """
    check_file(output / RUN)
    if not output.exists():
        return {}
    if not output.is_dir():
        raise OutputError(f"{output} is a file, expected a folder: choose another output")
    if (output / RUN).is_file():
        found = _read(output / RUN)
        if isinstance(found.get("tasks"), dict):
            _check_entries(output / RUN, found["tasks"])
            return found
    elif not any(output.iterdir()):
        return {}
    raise OutputError(f"{output} is no output of an evaluation: choose a new folder")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is damaged ({error}): choose another output, or remove it") from None
    return found if isinstance(found, dict) else {}


def _check_entries(path: Path, tasks: Mapping[str, Any]) -> None:
    """Raise OutputError for an entry that no run has written."""
    kinds = {"identity": dict, "run": dict, "files": list, "data_dir": str, "style": str, "num_asked": int}
    for name, entry in tasks.items():
        is_whole = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        if not is_whole or not isinstance(entry["identity"].get("decoding"), dict):
            raise OutputError(f"{path} is damaged (what it says of {name!r}): choose another output, or remove it")


def answer(
    work: Work, plan: Plan, model, processor, facts: Mapping[str, Any], share: Share, engine: Engine | None = None
) -> None:
    """Answer the questions of a task that have no answer yet, those of this process.

    The first process then waits for the others, writes answers.jsonl and removes the journals. facts: see
    `model_facts`. Raises OutputError if the folder has answers of another model or prompt.
    """
    folder = plan.output / work.task.name
    ident = identity(facts, work.style, plan.ocr, work.decoding, work.files)
    if share.rank == 0:
        _check_recorded(plan, work, facts, ident)
        _record(plan, work, facts, ident)
    else:
        _wait(lambda: _is_recorded(plan, work), f"{plan.output / RUN} of process 0")
        _check_recorded(plan, work, facts, ident)
    known = _answered(folder) | read_journals(folder, ident)
    if all(one.id in known for one in work.asked) and not journals_of(folder):
        return
    with Journal(folder, share.rank, ident) as log:
        _ask(work, model, processor, share, known, log, engine or Engine(model, max_slots=plan.num_at_a_time))
    if share.rank == 0:
        _complete(work, folder, share, ident)


def _recorded(plan: Plan, work: Work) -> dict[str, Any] | None:
    """Return what run.json says of a task."""
    return claim(plan.output).get("tasks", {}).get(work.task.name)


def _is_recorded(plan: Plan, work: Work) -> bool:
    return (plan.output / RUN).is_file() and _recorded(plan, work) is not None


def _check_recorded(plan: Plan, work: Work, facts: Mapping[str, Any], ident: Mapping[str, Any]) -> None:
    """Raise OutputError if a folder has answers that came about in another way, or that no run has recorded."""
    recorded, folder = _recorded(plan, work), plan.output / work.task.name
    if recorded is not None:
        models = str(recorded["run"].get("model")), str(facts["model"])
        check_identity(recorded.get("identity", {}), ident, folder, models)
    elif (folder / ANSWERS).exists() or journals_of(folder):
        raise OutputError(f"{plan.output / RUN} says nothing of {folder}: choose another output, or remove that folder")


def _wait(is_there: Callable[[], bool], what: str) -> None:
    """Return when something is there that another process writes. Raises OutputError if it does not come."""
    began = time.monotonic()
    while not is_there():
        if time.monotonic() - began > PATIENCE:
            raise OutputError(f"{what} did not appear: all machines must see the same output folder")
        time.sleep(SECONDS)


def _ask(work: Work, model, processor, share: Share, known: Mapping[str, Saved], log, engine: Engine) -> None:
    """Ask the questions of a process that have no answer, and note each answer as it ends."""
    own = share.of(work.asked)
    left = [one for one in own if one.id not in known]
    if share.rank == 0 and len(left) < len(own):
        notice(f"{work.task.name}: {len(own) - len(left):,} of {len(own):,} answers are there already")
    with _progress(work.task.name, len(own), len(own) - len(left), share) as bar:
        for question, saved in ask_all(model, processor, left, work.decoding, engine=engine):
            log.add(question.id, saved)
            bar.update()


def _progress(name: str, total: int, done: int, share: Share) -> tqdm:
    """Return the progress of the first process; the others have equal shares. A log gets a line every half minute."""
    is_terminal = sys.stderr.isatty()
    title = name if share.count == 1 else f"{name}, process 1 of {share.count}"
    return tqdm(
        desc=title,
        total=total,
        initial=done,
        unit=" answers",
        disable=share.rank > 0,
        mininterval=0.2 if is_terminal else 30.0,
        dynamic_ncols=True,
    )


def _complete(work: Work, folder: Path, share: Share, ident: Mapping[str, Any]) -> None:
    """Wait until all questions have an answer, write them in the order of the files, and remove the journals.

    The verdicts are added when the task is scored (outputs.py).
    """
    wanted = {one.id for one in work.asked}
    for rank in range(share.count):
        _wait(lambda rank=rank: rank in journals_of(folder), f"the journal of process {rank} in {folder}")
    while not wanted <= (found := _answered(folder) | read_journals(folder, ident)).keys():
        time.sleep(SECONDS)
    saved = read_answers_file(folder) | found
    questions = tuple(one for one in work.loaded.questions if one.id in saved)
    write_answers(folder, (unscored(one, saved[one.id]) for one in questions))
    for path in journals_of(folder).values():
        path.unlink(missing_ok=True)


def _answered(folder: Path) -> dict[str, Saved]:
    """Return the answers in answers.jsonl, without the questions that could not be asked: they are asked again."""
    return {name: saved for name, saved in read_answers_file(folder).items() if saved.output is not None}


def _record(plan: Plan, work: Work, facts: Mapping[str, Any], ident: Mapping[str, Any]) -> None:
    """Write what is known of a task's answers to run.json, before the first of them."""
    found = claim(plan.output)
    entry = {
        "identity": dict(ident),
        "data_dir": str(plan.data_dir),
        "files": work.files,
        "style": work.style,
        "ocr": plan.ocr,
        "rule": plan.rule,
        "num_asked": len(work.asked),
        "num_questions": len(work.loaded.questions),
        "num_problems": len(work.loaded.problems),
        "run": dict(facts),
    }
    plan.output.mkdir(parents=True, exist_ok=True)
    write_json(plan.output / RUN, {"tasks": {**found.get("tasks", {}), work.task.name: entry}})
