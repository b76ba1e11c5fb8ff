"""Write what comes out of a run: scores, a report, and the files that the benchmarks' servers take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..output import write_json
from ..terminal.log import notice
from .item import Loaded
from .journal import ANSWERS, SCORES, read_answers_file, write_answers
from .judging.ask import Judged, saved_judgements
from .report import write_report
from .results import Saved, TaskResult
from .run import Plan, Work, claim, prepare
from .scoring import score_task
from .summary import scores_json
from .tasks import TASKS

REPORT, JUDGEMENTS = "report.html", "judgements.jsonl"
# Asks a judge about the answers to a task: its work, the saved answers, the file of judgements.
AskJudge = Callable[[Work, Mapping[str, Saved], Path], Judged]


def finish(works: Sequence[Work], plan: Plan, ask_judge: AskJudge | None = None) -> list[TaskResult]:
    """Score all tasks of an output folder whose answers are complete, and write its files.

    works: the tasks of this run; earlier ones are read again. ask_judge: None uses the judgements that are there.
    Raises the error of a judge that cannot be asked, after all else is written.
    """
    recorded = claim(plan.output)["tasks"]
    current = {work.task.name: work for work in works}
    results, entries, failures = [], _entries(plan.output / SCORES), []
    for name, entry in recorded.items():
        work, its_plan = (current[name], plan) if name in current else _earlier(plan, name, entry)
        if work is None:
            continue
        result, failure = _finish_task(work, its_plan, ask_judge if name in current else None)
        results.append(result)
        failures += [] if failure is None else [failure]
    found = entries | scores_json(results)
    write_json(plan.output / SCORES, {name: found[name] for name in recorded if name in found})
    write_report(plan.output / REPORT, results, _facts(recorded, [result.task.name for result in results]))
    if failures:
        raise failures[0]
    return results


def _entries(path: Path) -> dict[str, Any]:
    """Return what an earlier run wrote to scores.json, nothing if that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _earlier(plan: Plan, name: str, entry: Mapping[str, Any]) -> tuple[Work | None, Plan]:
    """Return a task that an earlier run answered, with its plan, or None with a notice if it cannot be read again."""
    decoding = entry["identity"]["decoding"]
    its_plan = replace(
        plan,
        data_dir=Path(entry["data_dir"]),
        style=entry["style"],
        ocr=entry["ocr"],
        limit=entry["num_asked"],
        rule=entry["rule"],
        **{key: decoding[key] for key in ("max_new_tokens", "temperature", "seed")},
    )
    if not (plan.output / name / ANSWERS).is_file():
        notice(f"{name} is not complete: run it again with the same output to go on")
        return None, its_plan
    try:
        return prepare(TASKS[name], its_plan), its_plan
    except (ValueError, OSError, KeyError) as error:
        notice(f"{name} was answered earlier and is left out of {REPORT}; its scores stay as they are: {error}")
        return None, its_plan


def _finish_task(work: Work, plan: Plan, ask_judge: AskJudge | None) -> tuple[TaskResult, ValueError | None]:
    """Judge and score the answers to a task, and write its files. Also return why the judge could not be asked."""
    folder = plan.output / work.task.name
    saved, judged, failure = read_answers_file(folder), Judged({}), None
    if work.task.has_judge:
        judged, failure = _judged(work, saved, folder / JUDGEMENTS, ask_judge)
        saved = judged.add_to(saved)
    result = score_task(
        work.task,
        replace(work.loaded, questions=work.asked),
        saved,
        rule=plan.rule,
        style=work.style,
        judge=judged.judge,
        num_questions=len(work.loaded.questions),
    )
    result = replace(result, problems=(*result.problems, *judged.problems), notes=(*result.notes, *judged.notes))
    everything = tuple(one for one in work.loaded.questions if one.id in saved)
    is_all = everything == work.asked  # no earlier run had a higher limit
    all_of_it = result if is_all else score_task(work.task, Loaded(everything), saved, rule=plan.rule)
    write_answers(folder, all_of_it.answered)
    _submit(work, folder, saved)
    return result, failure


def _judged(
    work: Work, saved: Mapping[str, Saved], journal: Path, ask_judge: AskJudge | None
) -> tuple[Judged, ValueError | None]:
    """Return what the judge wrote, or what is there of it and why the judge could not be asked."""
    failure = None
    if ask_judge is not None:
        try:
            return ask_judge(work, saved, journal), None
        except ValueError as error:
            failure = error
    return saved_judgements(work.asked, saved, journal), failure


def _submit(work: Work, folder: Path, saved: Mapping[str, Saved]) -> None:
    """Write the file that the benchmark's server takes, of all its questions."""
    if work.task.submission is None:
        return
    texts = {name: one.output for name, one in saved.items() if one.output is not None}
    try:
        work.task.submission(folder / work.task.submission_name, work.loaded.questions, texts)
    except ValueError as error:
        notice(f"{work.task.submission_name} is not written: {error}; the same command writes it later")


def _facts(recorded: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what the report says of a run: (label, text)."""
    facts: dict[str, str] = {}
    for name in names:
        run, ident = recorded[name]["run"], recorded[name]["identity"]
        for label in ("model", "dtype", "quantization", "template", "system text", "images", "device"):
            facts.setdefault(label.capitalize(), str(run[label]))
        facts.setdefault("Versions", ", ".join(f"{key} {value}" for key, value in run["versions"].items()))
        decoding = ident["decoding"]
        facts[f"Decoding of {name}"] = (
            f"{'greedy' if not decoding['temperature'] else 'temperature ' + str(decoding['temperature'])}, "
            f"at most {decoding['max_new_tokens']:,} tokens"
        )
        for file in recorded[name]["files"]:
            facts[f"Data of {name}: {Path(file['file']).name}"] = f"SHA-256 {file['sha256']}, {file['bytes']:,} bytes"
    return list(facts.items())
