"""The scores of a run in short: a table for the terminal, and values for scores.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..terminal.columns import padded, shortened, width_of, wrapped
from ..terminal.visible import visible_line
from .results import TaskResult
from .scores.result import Scores
from .units import NO_VALUE, printed, top_text, unit_of

MAX_WIDTH = 80
MAX_PROBLEMS = 20  # of a task that scores.json has one by one
GAP = "  "
COLUMNS = ("task", "figure", "score", "items", "failed", "problems", "rule")
NUMBERS = ("score", "items", "failed", "problems")  # aligned to the right, never shortened
LEAST_WIDTH = 6  # of a column that is shortened
# Figures that papers print beside the main one, by its name.
_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "perception": ("cognition", "total"),
        "accuracy": ("accuracy/IMG", "accuracy/data_type/image", "accuracy/data_type/video"),
        "circular": ("vanilla",),
        "CIDEr": ("Bleu_4", "ROUGE_L"),
        "aAcc": ("fAcc", "qAcc"),
        "f1": ("accuracy/all", "yes_ratio/all"),
        "Acc@0.5": ("mean_overlap",),
    }
)


def summary_lines(results: Sequence[TaskResult]) -> list[str]:
    """Return the table of tasks, in lines of at most 80 places.

    Below a task stand further figures that papers print, why there is no score, and what a reader has to know.
    """
    rows = [_row(result) for result in results]
    widths = _widths([COLUMNS, *rows])
    lines = [_joined(COLUMNS, widths), GAP.join("-" * width for width in widths)]
    for result, row in zip(results, rows, strict=True):
        lines.append(_joined(row, widths))
        for text in _below(result):
            lines += [f"  {line}" for line in wrapped(visible_line(text), MAX_WIDTH - 2)]
    return lines


def _row(result: TaskResult) -> tuple[str, ...]:
    scores = result.scores
    items, failed = (f"{scores.num_items:,}", f"{scores.num_failed:,}") if scores else (NO_VALUE, NO_VALUE)
    value, main = (printed(scores), scores.main) if scores else (NO_VALUE, NO_VALUE)
    return (result.task.name, main, value, items, failed, f"{len(result.problems):,}", result.rule)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of the columns; while the table is too wide, the widest column of texts is shortened."""
    widths = [max(width_of(row[place]) for row in rows) for place in range(len(COLUMNS))]
    texts = [place for place, name in enumerate(COLUMNS) if name not in NUMBERS]
    while sum(widths) + len(GAP) * (len(widths) - 1) > MAX_WIDTH:
        widest = max(texts, key=lambda place: widths[place])
        if widths[widest] <= LEAST_WIDTH:
            break
        widths[widest] -= 1
    return widths


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        padded(shortened(cell, width), width, is_right=name in NUMBERS)
        for name, cell, width in zip(COLUMNS, row, widths, strict=True)
    ]
    return GAP.join(cells).rstrip()


def _below(result: TaskResult) -> list[str]:
    """Return the texts below a task."""
    reason, texts = no_score(result), []
    if reason:
        texts.append(f"no score: {reason}")
    elif result.scores:
        texts += [", ".join(beside(result.scores))] if beside(result.scores) else []
    if result.judge:
        texts.append(f"judge: {result.judge}")
    return texts + [note for note in notes(result) if note not in reason]


def beside(scores: Scores) -> list[str]:
    """Return the further figures that papers print, "cognition 295.4 of 800"."""
    names = [name for name in _BESIDE.get(scores.main, ()) if name in scores.figures]
    return [" ".join(filter(None, (name, printed(scores, name), top_text(scores, name)))) for name in names]


def no_score(result: TaskResult) -> str:
    """Return why a task has no score, "" if it has one."""
    if result.scores is None:
        return "; ".join(result.notes) or "there is no answer that can be scored"
    if result.scores.value() is None:
        return f"{result.scores.main} is not defined for these answers"
    return ""


def notes(result: TaskResult) -> list[str]:
    """Return what a reader of the figures has to know."""
    num_asked, num_known = len(result.answered), result.num_questions
    part = [f"only {num_asked:,} of {num_known:,} questions of the files were asked"] if num_asked < num_known else []
    return [*part, *result.notes, *(result.scores.notes if result.scores else ())]


def ocr_tokens(result: TaskResult) -> str:
    """Return whether the prompts have OCR tokens, a dash where the benchmark has none."""
    found = {one.question.has_ocr for one in result.answered} - {None}
    return " and ".join(sorted("yes" if one else "no" for one in found)) or NO_VALUE


def scores_json(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Return what scores.json holds: by task, its figures with counts, and what they rest on.

    Values are those of the scorer, not in percent; "unit" is that of the main figure. What is not defined is None.
    """
    return {result.task.name: _task_json(result) for result in results}


def _task_json(result: TaskResult) -> dict[str, Any]:
    scores = result.scores
    figures = scores.figures if scores else {}
    return {
        "main": scores.main if scores else None,
        "value": _finite(scores.value()) if scores else None,
        "unit": unit_of(scores).name if scores else None,
        "figures": {name: {"value": _finite(one.value), "count": one.count} for name, one in figures.items()},
        "rule": result.rule,
        "style": result.style,
        "judge": result.judge,
        "ocr_tokens": ocr_tokens(result),
        "num_questions": result.num_questions,
        "num_answers": result.num_answers,
        "num_items": scores.num_items if scores else 0,
        "num_failed": scores.num_failed if scores else 0,
        "problems": {
            "count": len(result.problems),
            "first": [{"where": one.where, "id": one.id, "text": one.text} for one in result.problems[:MAX_PROBLEMS]],
        },
        "notes": notes(result),
    }


def _finite(value: float | None) -> float | None:
    """Return a value that JSON has."""
    return None if value is None or not math.isfinite(value) else value
