"""Answers that stand alone: files that hold the right answers too, and are scored without the files of the benchmark.

These are ours (answers.jsonl), VLMEvalKit's tables, and lmms-eval's samples of the sets in sample_documents.py. The
questions can be scored, not asked again: their images are absent. Submission files need the benchmark's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...constants import IMAGE_MARK
from ..item import AbsentImage, Loaded, Problem, Question
from ..prompts import STYLES, ask
from ..results import Saved
from ..table import TABLES
from ..tasks.task import Source, Task
from .answers import lmms_answer, read_answers, saved_rows
from .sample_documents import DOCUMENTS

Found = tuple[Question, Saved]
OCR_KEY = "has_ocr"  # of our lines


def stand_alone(task: Task, path: str | Path) -> tuple[Loaded, dict[str, Saved]]:
    """Return the questions that a file of answers holds, and the answers by id.

    The order is the file's. Lines that are broken, and second answers to a question, are among the problems. Raises
    ValueError for a file that does not hold the right answers, with the data folder that is needed instead.
    """
    path = Path(path)
    if path.suffix.lower() in TABLES:
        return _answer_table(task, path)
    kind, rows = saved_rows(path)
    readers: dict[str, Callable[[Task, str, Mapping[str, Any]], Found]] = {"paddlemix": _ours, "lmms": _sample}
    if kind not in readers or (kind == "lmms" and task.name not in DOCUMENTS):
        raise ValueError(f"{_needs_files(task, path)}: {_reason(kind)}")
    if kind == "lmms" and not any(isinstance(row, dict) and row.get("doc") for _, row in rows):
        raise ValueError(f"{_needs_files(task, path)}: its samples have no documents ('doc')")
    found = _read(task, rows, readers[kind])
    questions: dict[str, Question] = {}
    saved: dict[str, Saved] = {}
    problems: list[Problem] = []
    for where, one in found:
        if isinstance(one, Problem):
            problems.append(one)
        elif one[0].id in questions:
            problems.append(Problem(where, "an answer came before", one[0].id))
        else:
            questions[one[0].id], saved[one[0].id] = one
    return Loaded(tuple(questions.values()), tuple(problems), (path,)), saved


def _needs_files(task: Task, path: Path) -> str:
    return f"{path} cannot be scored alone; give --data-dir with {task.expected(needs_images=False)}"


def _reason(kind: str) -> str:
    if kind == "lmms":
        return f"samples of lmms-eval are read alone for {', '.join(DOCUMENTS)}"
    return "LLaVA's files hold answers without the right ones"


def _read(task: Task, rows, reader) -> Iterator[tuple[str, Found | Problem]]:
    for where, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError(str(row) if isinstance(row, ValueError) else "the line is not an object")
            yield where, reader(task, where, row)
        except KeyError as error:
            yield where, Problem(where, f"the line has no {error}")
        except (ValueError, TypeError, AttributeError, IndexError) as error:  # values of other types
            yield where, Problem(where, str(error))


def _ours(task: Task, where: str, row: Mapping[str, Any]) -> Found:
    """Read a line of answers.jsonl. A category that was a tuple has come back as a list."""
    found, has_ocr = row.get("fields") or {}, row.get(OCR_KEY)
    if not isinstance(found, dict) or not isinstance(has_ocr, bool | None):
        raise ValueError(f"the line has 'fields' or {OCR_KEY!r} that no run has written")
    fields = dict(found)
    if isinstance(fields.get("category"), list):
        fields["category"] = tuple(fields["category"])
    question = _question(str(row["id"]), str(row["prompt"]), fields, has_ocr)
    if "output" not in row:
        return question, Saved(None, str(row["problem"]))
    if not isinstance(row["output"], str):
        raise ValueError(f"'output' is {row['output']!r}, expected a text")
    judged = row.get("judgement") or ()
    judgement = (judged,) if isinstance(judged, str) else tuple(str(text) for text in judged)
    finish_reason, num_tokens = str(row.get("finish_reason", "")), int(row.get("num_prompt_tokens", 0))
    return question, Saved(row["output"], str(row.get("problem", "")), finish_reason, num_tokens, judgement)


def _question(name: str, prompt: str, fields: Mapping[str, Any], has_ocr: bool | None = None) -> Question:
    pieces = tuple(prompt.split(IMAGE_MARK))
    return Question(name, pieces, (AbsentImage(),) * (len(pieces) - 1), fields, has_ocr=has_ocr)


def _sample(task: Task, where: str, row: Mapping[str, Any]) -> Found:
    """Read a sample of lmms-eval. The prompt is that of its request where the file has it, else the question."""
    document = row["doc"]
    known = DOCUMENTS[task.name](document)
    answer = lmms_answer(row)
    name = str(row["doc_id"]) if known.id is None else known.id
    asked = row.get("input")
    prompt = asked if isinstance(asked, str) and asked else str(document["question"])
    return Question(name, (prompt,), fields=known.fields), Saved(answer)


def _answer_table(task: Task, path: Path) -> tuple[Loaded, dict[str, Saved]]:
    """Read VLMEvalKit's workbook, or its tab-separated values, as the task's table, with the answers beside it."""
    source = next((one for one in task.sources if _is_table(one)), None)
    if source is None:
        raise ValueError(f"{_needs_files(task, path)}: {task.name} has no table of VLMEvalKit")
    style = task.style(STYLES[-1] if STYLES[-1] in task.styles else None)
    questions: list[Question] = []
    problems: list[Problem] = []
    for record in source.reader({"questions": path, "images": (path.parent,)}):
        if isinstance(record, Problem):
            problems.append(record)
        else:
            questions.append(ask(record, style, ocr=False))
    if not questions:
        raise ValueError(f"{path} holds no question of {task.name}: {problems[0] if problems else 'it has no rows'}")
    answers = read_answers(path, questions)
    return (
        Loaded(tuple(questions), tuple(dict.fromkeys((*problems, *answers.duplicates, *answers.problems))), (path,)),
        {name: Saved(text) for name, text in answers.texts.items()},
    )


def _is_table(source: Source) -> bool:
    return any(name.endswith(".tsv") for name in source.files.get("questions", ()))
