"""The review files of LLaVA's scripts: write them as eval_gpt_review_visual.py does, and sum them up.

A line is {"id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..item import Problem
from ..line_file import LineFile
from ..readers.judged import captions_and_boxes
from ..readers.rows import json_lines, text_of
from ..scores import gpt_review
from .ask import NUM_PARALLEL, Job, ask_jobs
from .judge import Judge
from .replies import Reply
from .rules import Protocol

BENCH = "llava_bench_"  # before the categories of LLaVA-Bench, whose contexts are one text
FAILED = (-1, -1)


@dataclass(frozen=True)
class ReviewInputs:
    """The files of a review. reference, answers: of the assistants 1 and 2."""

    questions: Path
    contexts: Path
    reference: Path
    answers: Path


@dataclass(frozen=True)
class Reviewed:
    """What became of a review file: reviews that were there before and that were added, and what failed."""

    num_before: int
    num_added: int
    problems: tuple[Problem, ...]


def write_reviews(
    inputs: ReviewInputs,
    output: str | Path,
    judge: Judge,
    protocol: Protocol,
    *,
    is_compat: bool = False,
    num_parallel: int = NUM_PARALLEL,
    is_shown: bool = True,
) -> Reviewed:
    """Have a judge compare two answers to each question, and add its reviews to a file as they end.

    Questions that the file has a review of are not asked again. is_compat: as LLaVA reads reviews, "8, 9" and any other
    review that has not two numbers with one space gets (-1, -1); else the judge is asked again, and a review without
    points is not written. Raises ValueError for files that do not fit together.
    """
    rows, jobs = _asked(inputs, protocol)
    rule = "llava" if is_compat else "strict"
    protocol = replace(protocol, is_readable=lambda text: True) if is_compat else protocol
    unread: list[Problem] = []
    with LineFile(output) as file:
        before = _reviewed(Path(output), rows)
        missing = [job for job in jobs if job.id not in before]

        def write(job: Job, reply: Reply) -> None:
            points = gpt_review.parse(reply.text, rule) or (FAILED if is_compat else None)
            if points is None:
                shown = reply.text.strip().partition("\n")[0][:60]
                unread.append(Problem(inputs.questions.name, f"the review has no two numbers: {shown!r}", job.id))
            else:
                file.add({**rows[job.id], "content": reply.text, "tuple": list(points)})

        failed = ask_jobs(
            judge,
            protocol,
            missing,
            write,
            where=inputs.questions.name,
            title="reviewing" if is_shown else "",
            num_parallel=num_parallel,
            has_replied=bool(before),
        )
    problems = (*failed, *unread)
    return Reviewed(len(before), len(missing) - len(problems), problems)


def _asked(inputs: ReviewInputs, protocol: Protocol) -> tuple[dict[str, dict[str, Any]], list[Job]]:
    """Return what a review's line states besides the review, by question, and what the judge is asked."""
    contexts = _by(inputs.contexts, "image")
    references, answers = _by(inputs.reference, "question_id"), _by(inputs.answers, "question_id")
    rows, jobs = {}, []
    for name, question in _by(inputs.questions, "question_id").items():
        context = _found(contexts, str(question.get("image")), inputs.contexts)
        first, second = (
            _found(found, name, path) for found, path in ((references, inputs.reference), (answers, inputs.answers))
        )
        try:
            fields = _fields(question, context, first)
            jobs.append(Job(name, protocol.messages(fields, second["text"]), second["text"]))
        except KeyError as error:
            raise ValueError(f"{inputs.questions}, question {name}: no {error} in it or what belongs to it") from None
        except (ValueError, TypeError) as error:  # values of other types
            raise ValueError(f"{inputs.questions}, question {name}: {error}") from None
        rows[name] = {
            "id": len(rows) + 1,
            "question_id": question["question_id"],
            "answer1_id": first.get("answer_id", first["question_id"]),
            "answer2_id": second.get("answer_id", second["question_id"]),
            "category": fields["category"],
        }
    return rows, jobs


def _fields(question: dict, context: dict, reference: dict) -> dict[str, Any]:
    """Return what the judge is asked about; the context tells LLaVA-Bench from the first version's questions."""
    is_bench = "caption" in context
    return {
        "question": text_of(question, "text"),
        "context": text_of(context, "caption") if is_bench else captions_and_boxes(context),
        "reference": reference["text"],
        "category": (BENCH if is_bench else "") + text_of(question, "category"),
    }


def _by(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by the value of a key. Raises ValueError for a line without it, or a second one."""
    found = {}
    for where, row in json_lines(path):
        if not isinstance(row, dict) or key not in row:
            reason = row if isinstance(row, ValueError) else f"it has no {key!r}"
            raise ValueError(f"{path.parent / where}: {reason}")
        if key == "question_id" and str(row[key]) in found:
            raise ValueError(f"{path.parent / where}: the {key} {row[key]} occurs before")
        found[str(row[key])] = row
    return found


def _found(rows: Mapping[str, dict[str, Any]], name: str, path: Path) -> dict[str, Any]:
    if name not in rows:
        raise ValueError(f"{path} has no row for {name!r}: expected one for each question")
    return rows[name]


def _reviewed(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the questions that a file has reviews of. Raises ValueError if these are of other answers."""
    reviews = read_reviews(path) if path.stat().st_size else []
    for where, row in reviews:
        name = str(row.get("question_id"))
        if name not in rows:
            raise ValueError(f"{where} is a review of question {name}, which is not asked: name another --output")
        for key in ("answer1_id", "answer2_id"):
            if row.get(key, rows[name][key]) != rows[name][key]:
                raise ValueError(f"{where} is a review of another answer ({key} {row[key]}): name another --output")
    return {str(row["question_id"]) for _, row in reviews}


def read_reviews(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a review file with their places. Raises ValueError for a line that is no review."""
    found = []
    for place, row in json_lines(path):
        where = str(path.parent / place)
        points = row.get("tuple", row.get("score")) if isinstance(row, dict) else None
        if not isinstance(points, list) or [type(one) in (int, float) for one in points] != [True, True]:
            raise ValueError(f"{where} is no review: expected an object with two numbers under 'tuple'")
        found.append((where, row))
    return found


def review_files(folder: Path, *, is_v1: bool = False) -> list[Path]:
    """Return the review files in a folder, sorted, as summarize_gpt_review.py finds them by their names.

    Raises ValueError if there are none.
    """
    starts = ("gpt4_text", "reviews_") if is_v1 else ("gpt4_text", "reviews_", "review_")
    is_any = not is_v1 and "review" in str(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: expected one with review files")
    found = [path for path in folder.iterdir() if path.suffix == ".jsonl" and (is_any or path.name.startswith(starts))]
    if not found:
        raise ValueError(f"{folder} has no review files: expected {', '.join(f'{one}*.jsonl' for one in starts)}")
    return sorted(found)


def selected(paths: Sequence[Path], words: Sequence[str] = (), version: str | None = None) -> list[Path]:
    """Return the files whose titles have all of the words and are of a version of GPT-4.

    version: "0613" for titles with it, "0314" for all others; None for both.
    """
    titles = [(path, title_of(path)) for path in paths]
    chosen = [(path, title) for path, title in titles if all(word in title for word in words)]
    return [path for path, title in chosen if version in (None, "0613" if "0613" in title else "0314")]


def title_of(path: Path) -> str:
    """Return what a summary calls a review file."""
    return path.name.replace("gpt4_text_", "").replace(".jsonl", "")


def summary(path: Path, ignored: Sequence[int] = (), *, is_v1: bool = False) -> list[str]:
    """Return the lines that summarize_gpt_review.py prints for a file. Raises ValueError for a damaged line."""
    rows = [row for _, row in read_reviews(path)]
    try:
        return gpt_review.lines_v1(rows, title_of(path)) if is_v1 else gpt_review.lines(rows, title_of(path), ignored)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None
