"""Read saved answers: our own, LLaVA's, lmms-eval's samples and VLMEvalKit's workbooks.

Answers belong to questions by their ids. Where a project's ids are not unique (LLaVA's for TextVQA and MME), the prompt
decides, and else the order. Nothing is dropped silently: what occurs twice, is missing or is not known is counted and
named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...terminal.sizes import plural
from ..item import Problem, Question, named
from ..readers.rows import Placed, json_lines, read_json
from ..table import ANSWER, TABLES, WORKBOOK, read_table
from .workbook import workbook_rows

KINDS = ("paddlemix", "llava", "lmms", "vlmevalkit")
FAILED_REQUESTS = ("[LMMS_EVAL_REQUEST_FAILED", "Failed to obtain answer via API")
_LMMS_IDS = ("question_id", "questionId", "index", "id", "image")


@dataclass(frozen=True)
class SavedAnswer:
    """One answer as a file has it. ids: names of its question, the best first.

    prompt, question, place (in the data set): None if the file does not tell.
    """

    where: str
    ids: tuple[str, ...]
    text: str
    prompt: str | None = None
    question: str | None = None
    place: int | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of a file by the questions' ids, in the order of the questions.

    kind: of the file. duplicates: answers beyond the first, which counts. missing: ids of questions without an answer.
    unknown: answers to no question. problems: lines that cannot be read, and requests that failed; the text of a failed
    request stays the answer, as its project scores it. num_by_order: answers that only their order gave a question.
    """

    kind: str
    texts: Mapping[str, str]
    duplicates: tuple[Problem, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    num_by_order: int = 0

    def summary(self) -> str:
        """Return one line with the counts and the first names."""
        parts = [f"{plural(len(self.texts), 'answer')} ({self.kind})"]
        found = (("duplicate", self.duplicates), ("missing", self.missing), ("unknown", self.unknown))
        parts += [named(members, what) for what, members in (*found, ("problem", self.problems)) if members]
        parts += [f"{self.num_by_order} matched by order"] if self.num_by_order else []
        return ", ".join(parts)


def read_answers(path: str | Path, questions: Sequence[Question]) -> Answers:
    """Read the answers to questions from a file whose kind its content tells.

    .jsonl: ours ("id", "output"), LLaVA's ("question_id", "text") or lmms-eval's ("doc_id", "filtered_resps"). .json:
    what LLaVA's eval_science_qa.py writes ("outputs"), or lmms-eval's "logs". .xlsx, .tsv: VLMEvalKit's
    ("index", "prediction"). Raises ValueError for any other file, and for questions that share an id.
    """
    path = Path(path)
    if len({question.id for question in questions}) < len(questions):
        raise ValueError(f"two questions have the id {_twice(questions)!r}: give each its own")
    kind, found = _read(path)
    saved = [one for one in found if isinstance(one, SavedAnswer)]
    problems = [one for one in found if isinstance(one, Problem)]
    for one in saved:
        if one.text.startswith(FAILED_REQUESTS):
            problems.append(Problem(one.where, f"the request failed: {one.text[:60]!r}", one.ids[0] if one.ids else ""))
    matched = _Matched(questions)
    matched.add(saved)
    texts = {question.id: matched.texts[question.id] for question in questions if question.id in matched.texts}
    missing = tuple(question.id for question in questions if question.id not in texts)
    return Answers(
        kind,
        texts,
        tuple(matched.duplicates),
        missing,
        tuple(matched.unknown),
        tuple(problems),
        matched.num_by_order,
    )


def _twice(questions: Sequence[Question]) -> str:
    """Return the first id that occurs a second time."""
    seen: set[str] = set()
    return next(one.id for one in questions if one.id in seen or seen.add(one.id))


class _Matched:
    """Give answers to questions."""

    def __init__(self, questions: Sequence[Question]):
        self.questions = questions
        self.own = {question.id: [question] for question in questions}
        self.other: dict[str, list[Question]] = {}
        for question in questions:
            for name in question.other_ids:
                self.other.setdefault(name, []).append(question)
        self.texts: dict[str, str] = {}
        self.duplicates: list[Problem] = []
        self.unknown: list[Problem] = []
        self.num_by_order = 0

    def add(self, saved: Sequence[SavedAnswer]) -> None:
        """Add answers, those of a name together. Places count only if not a single id is known."""
        names = [self._known(one.ids) for one in saved]
        groups: dict[str, list[SavedAnswer]] = {}
        for one, name in zip(saved, names, strict=True):
            if name is not None:
                groups.setdefault(name, []).append(one)
            elif not any(names) and self._is_at_its_place(one):
                self.num_by_order += 1
                self._give(one, [self.questions[one.place]])
            else:
                shown = one.ids[0] if one.ids else f"place {one.place}"
                self.unknown.append(Problem(one.where, "there is no question of this id", shown))
        for name, members in groups.items():
            self._match(members, self.own.get(name) or self.other[name])

    def _is_at_its_place(self, one: SavedAnswer) -> bool:
        """Return whether there is a question at the place of an answer, and it is not another one."""
        if one.place is None or not 0 <= one.place < len(self.questions):
            return False
        asked = " ".join(_text_of(self.questions[one.place]).lower().split())
        return one.question is None or " ".join(one.question.lower().split()) in asked

    def _known(self, ids: Sequence[str]) -> str | None:
        return next((name for known in (self.own, self.other) for name in ids if name in known), None)

    def _match(self, members: Sequence[SavedAnswer], wanted: Sequence[Question]) -> None:
        """Give the answers of a name to the questions of that name: by the prompt, then by the order."""
        left = []
        for one in members:
            same = [question for question in wanted if _text_of(question) == one.prompt]
            if same or len(wanted) == 1:
                self._give(one, same or wanted)
            else:
                left.append(one)
        for one in left:
            self.num_by_order += 1
            self._give(one, wanted)

    def _give(self, one: SavedAnswer, wanted: Sequence[Question]) -> None:
        """Give an answer to the first question that has none yet."""
        free = next((question.id for question in wanted if question.id not in self.texts), None)
        if free is None:
            is_same = one.text in [self.texts[question.id] for question in wanted]
            text = (
                "an answer came before, with the same text" if is_same else "an answer came before, with another text"
            )
            self.duplicates.append(Problem(one.where, text, wanted[0].id))
        else:
            self.texts[free] = one.text


def _text_of(question: Question) -> str:
    """Return the prompt without marks of images, as LLaVA's answer files have it."""
    return "".join(question.pieces).strip()


def _read(path: Path) -> tuple[str, list[SavedAnswer | Problem]]:
    if path.suffix.lower() in TABLES:
        return "vlmevalkit", list(_workbook(path) if path.suffix.lower() == WORKBOOK else _table(path))
    kind, rows = saved_rows(path)
    return kind, [_line(where, row, kind) for where, row in rows]


def saved_rows(path: Path) -> tuple[str, list[Placed]]:
    """Return the kind of a file of answers in JSON, and its rows. Raises ValueError for any other file."""
    if path.suffix.lower() != ".json":
        rows = list(json_lines(path))
        where, row = next(one for one in rows if isinstance(one[1], dict))
        return _kind_of(path.parent / where, row), rows
    found = read_json(path, dict)
    if isinstance(found.get("outputs"), dict):
        return "llava", [(path.name, {"question_id": name, "text": text}) for name, text in found["outputs"].items()]
    if isinstance(found.get("logs"), list):
        return "lmms", [(f"{path.name} log {number}", row) for number, row in enumerate(found["logs"], 1)]
    raise ValueError(f"{path} holds no answers: expected the key 'outputs' (LLaVA) or 'logs' (lmms-eval)")


def _kind_of(where: Path, row: Mapping[str, Any]) -> str:
    if "id" in row and row.keys() & {"output", "problem"}:
        return "paddlemix"
    if {"question_id", "text"} <= row.keys():
        if "image" in row and "answer_id" not in row:
            raise ValueError(f"{where} holds a question of LLaVA, expected an answer")
        return "llava"
    if "doc_id" in row and row.keys() & {"filtered_resps", "resps"}:
        return "lmms"
    keys = ", ".join(list(row)[:8])
    raise ValueError(
        f"{where} holds no answer that is known: found the keys {keys}; expected id and output (ours), question_id "
        "and text (LLaVA), or doc_id and filtered_resps (lmms-eval)"
    )


def _line(where: str, row: Any, kind: str) -> SavedAnswer | Problem:
    if isinstance(row, ValueError) or not isinstance(row, dict):
        return Problem(where, str(row) if isinstance(row, ValueError) else "the line is not an object")
    try:
        return _READERS[kind](where, row)
    except KeyError as error:
        return Problem(where, f"the line has no {error}")
    except (IndexError, TypeError, ValueError) as error:
        return Problem(where, f"the line has no answer: {error}")


def _ours(where: str, row: Mapping[str, Any]) -> SavedAnswer:
    if "output" not in row and "problem" in row:
        raise ValueError(row["problem"])
    return SavedAnswer(where, (str(row["id"]),), _checked(row["output"]))


def _llava(where: str, row: Mapping[str, Any]) -> SavedAnswer:
    prompt = row.get("prompt")
    return SavedAnswer(where, (str(row["question_id"]),), _checked(row["text"]), prompt and str(prompt).strip())


def _lmms(where: str, row: Mapping[str, Any]) -> SavedAnswer:
    """Read a sample. NOTE: a sample without the ids of its document is known by its place in the data set alone.

    POPE's ids are unique in their category only.
    """
    answer = lmms_answer(row)
    document = row.get("doc") if isinstance(row.get("doc"), dict) else {}
    ids = [str(document[name]) for name in _LMMS_IDS if isinstance(document.get(name), str | int)]
    ids = [f"{document['category']}/{name}" for name in ids if "category" in document] + ids
    question = document["question"] if isinstance(document.get("question"), str) else None
    return SavedAnswer(where, tuple(ids), answer, question=question, place=int(row["doc_id"]))


def lmms_answer(row: Mapping[str, Any]) -> str:
    """Return the answer of a sample, which lmms-eval puts into lists of one. Raises ValueError if it is no text."""
    answer = row["filtered_resps"] if "filtered_resps" in row else row["resps"]
    while isinstance(answer, list):
        answer = answer[0]
    return _checked(answer)


_READERS = {"paddlemix": _ours, "llava": _llava, "lmms": _lmms}


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"found {json.dumps(text, default=str)[:60]}, expected a text")
    return text


def _workbook(path: Path) -> Iterator[SavedAnswer | Problem]:
    """Read the first sheet of VLMEvalKit's workbook. An empty prediction is an empty answer."""
    rows = workbook_rows(path)
    _, header = next(rows, (0, ()))
    if not {"index", "prediction"} <= set(header):
        raise ValueError(f"{path} has the columns {', '.join(header)}, expected index and prediction among them")
    index, prediction = header.index("index"), header.index("prediction")
    for number, cells in rows:
        where = f"{path.name} row {number}"
        if cells[index]:
            yield SavedAnswer(where, (cells[index],), cells[prediction])
        else:
            yield Problem(where, "the row has no index")


def _table(path: Path) -> Iterator[SavedAnswer | Problem]:
    """Read VLMEvalKit's answers in tab-separated values, which it writes if PRED_FORMAT is tsv."""
    table = read_table(path)
    if ANSWER not in table.columns:
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}, expected prediction among them")
    yield from table.problems
    for row in table.rows:
        yield SavedAnswer(f"{path.name} line {row.line}", (row.index,), row.cells.get(ANSWER, ""))
