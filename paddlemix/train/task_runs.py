"""Answer the benchmarks of `eval_tasks` with the weights that a run has now, and write the answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..checkpoints.processor import LlavaProcessor
from ..evaluate.item import named
from ..evaluate.journal import line_of
from ..evaluate.results import Answered, Saved, TaskResult
from ..evaluate.run import Share
from ..evaluate.runner import Decoding, ask_all
from ..evaluate.scoring import score_task
from ..generate.batch import eval_mode
from ..generate.engine import Engine
from ..models.llava import Llava
from ..output import replacing
from ..terminal.log import notice
from .eval_tasks import EvalTask
from .processes import fail_together, gather
from .random_state import random_state, set_random_state
from .run_folder import TASKS

KEYS = {"id", "output", "parsed", "credit", "step"}  # of a line with an answer


def run_tasks(
    model: Llava, processor: LlavaProcessor, tasks: Sequence[EvalTask], args, step: int
) -> dict[str, float | None]:
    """Return the metrics of all tasks, the same in every process; all of them must call it.

    Each process answers a part of the questions, greedily. The first one writes the answers. Neither the weights nor
    the random states change. Raises ValueError if not one question of a task could be asked.
    """
    if not tasks:
        return {}
    before = random_state(bool(args.use_hybrid_parallel))
    metrics: dict[str, float | None] = {}
    try:
        # The engine forgets everything whenever a sequence is added to a model in training mode.
        with eval_mode(model):
            engine = Engine(model, max_slots=args.per_device_eval_batch_size)
            for task in tasks:
                metrics |= _run(model, processor, task, engine, args, step)
    finally:
        set_random_state(before)
    return metrics


def _run(model, processor, task: EvalTask, engine: Engine, args, step: int) -> dict[str, float | None]:
    setting, questions = task.setting, task.loaded.questions
    rank, num_processes = args.process_index, args.world_size
    part = Share(rank, num_processes).of(questions)
    decoding = Decoding.of(setting.task.style(setting.style), setting.max_new_tokens)

    def answer() -> dict[str, Saved]:
        asked = ask_all(model, processor, part, decoding, engine=engine)
        is_hidden = args.disable_tqdm or rank > 0 or not sys.stderr.isatty()
        asked = tqdm(asked, f"eval_tasks {task.name}", len(part), leave=False, disable=is_hidden)
        return {question.id: saved for question, saved in asked}

    parts = gather(fail_together(answer, num_processes), num_processes)
    saved = {name: one for answers in parts for name, one in answers.items()}
    result = score_task(setting.task, task.loaded, saved, rule=setting.rule, num_questions=task.num_questions)
    new_problems = result.problems[len(task.loaded.problems) :]
    if result.scores is None:
        raise ValueError(f"eval_tasks {task.name!r}: none of its questions could be asked: {new_problems[0]}")
    if new_problems and rank == 0:
        notice(f"eval_tasks {task.name}: not in the figures: {named(new_problems, 'problem')}")
    folder = Path(args.output_dir)
    fail_together(lambda: write_answers(folder, task.name, step, result) if rank == 0 else None, num_processes)
    return task.metrics(result.scores)


def write_answers(output_dir: Path, name: str, step: int, result: TaskResult) -> None:
    """Write the answers to a task, one a line, in place of those of an earlier step."""
    with replacing(output_dir / TASKS / f"{name}.jsonl") as file:
        file.writelines(line_of(_line(one, step)) for one in result.answered)


def _line(one: Answered, step: int) -> dict:
    problem = {"problem": one.problem} if one.problem else {}
    return {
        "id": one.question.id,
        "output": one.output,
        "parsed": one.parsed,
        "credit": one.credit,
        "step": step,
        **problem,
    }


def remove_answers(output_dir: Path) -> None:
    """Remove the answers that an earlier run wrote, of whatever tasks; files of others stay."""
    folder = output_dir / TASKS
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        if path.is_file() and not path.is_symlink() and _has_answers(path):
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _has_answers(path: Path) -> bool:
    """Return whether the first line of a file is an answer to a task."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= KEYS


def defined(metrics: dict[str, float | None]) -> dict[str, float]:
    """Return the metrics that have a value; loggers expect one."""
    return {name: value for name, value in metrics.items() if value is not None}
