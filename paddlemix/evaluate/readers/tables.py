"""Rows of benchmark tables (../table.py) as records: what each scorer needs, from the columns that the table has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..item import Problem, Record
from ..scores.mme import COGNITION, PERCEPTION
from ..table import TableRow, listed, read_table
from .judged import known_capabilities
from .rows import Files, Read

Fields = Callable[[TableRow], dict[str, Any]]
# Columns of MMBench's tables that LLaVA's convert_mmbench_for_submission.py leaves out of the file to upload.
NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")


def reader(fields: Fields, needs_image: bool = True, ocr: bool = False) -> Callable[[Files], Read]:
    """Return a reader of a table whose scorer gets `fields` of a row. Rows without an image are problems if needed."""

    def read(files: Files) -> Iterator[Record | Problem]:
        table = read_table(files["questions"], files["images"])
        for row in table.rows:
            where = f"{table.path.name} line {row.line}"
            if needs_image and not row.images:
                yield Problem(where, "the row has no image", row.index)
                continue
            try:
                yield _record(where, row, fields(row), table.columns)
            except KeyError as error:
                yield Problem(where, f"the row has no {error}", row.index)
            except ValueError as error:
                yield Problem(where, str(error), row.index)
        yield from table.problems

    return read


def _record(where: str, row: TableRow, fields: dict[str, Any], columns: tuple[str, ...]) -> Record:
    submitted = {name: row.cells.get(name, "") for name in columns if name and name not in NOT_SUBMITTED}
    other = tuple(row.cells[name] for name in ("question_id", "questionId", "id") if name in row.cells)
    return Record(
        row.index,
        row.cells["question"],
        row.images,
        hint=row.cells.get("hint", ""),
        options=row.options,
        fields=fields,
        row=submitted,
        other_ids=other,
        where=where,
    )


def _present(row: TableRow, **names: str) -> dict[str, Any]:
    """Return the cells that are there, under the scorer's names: answer="answer"."""
    return {name: row.cells[column] for name, column in names.items() if column in row.cells}


def choice(row: TableRow) -> dict[str, Any]:
    """For scores/choice.py and scores/mmbench.py. A letter in the answer has its upper case."""
    fields = _present(row, answer="answer", category="category", l2_category="l2-category", split="split")
    if "answer" in fields:
        fields["answer"] = fields["answer"].strip()
    if "l2_category" in fields:
        fields["l2-category"] = fields["l2_category"]
    return {**fields, "options": row.options, "index": row.index}


def mmbench(row: TableRow) -> dict[str, Any]:
    """For scores/mmbench.py. Raises ValueError if the index is no number or the answer no letter of an option."""
    fields = choice(row)
    if not row.index.isdecimal():
        raise ValueError(f"the index is {row.index!r}, expected a number")
    if fields.get("answer", "A") not in row.options and "answer" in fields:
        raise ValueError(f"the answer is {fields['answer']!r}, expected one of {', '.join(row.options)}")
    return fields


def answers(row: TableRow) -> dict[str, Any]:
    """For metrics with several references, which the table has as a Python list under "answer" or "answers"."""
    cell = row.cells.get("answers", row.cells.get("answer"))
    fields = _present(row, category="category", answer_type="answer_type")
    return fields if cell is None else {**fields, "answers": _texts(cell)}


def _texts(cell: str) -> list[str]:
    """Return the texts of a cell, see `listed`. Raises ValueError if there are none."""
    texts = listed(cell)
    if not texts:
        raise ValueError("the list of answers is empty")
    return texts


def answer(row: TableRow) -> dict[str, Any]:
    """For metrics with one answer."""
    return _present(row, answer="answer", category="category")


def chartqa(row: TableRow) -> dict[str, Any]:
    """For scores/relaxed.py: the halves are the splits test_human and test_augmented."""
    fields = _present(row, answer="answer", category="split")
    if "category" in fields:
        fields["category"] = fields["category"].removeprefix("test_")
    return fields


def captions(row: TableRow) -> dict[str, Any]:
    """For scores/captions.py."""
    return {"references": _texts(row.cells["answer"])} if "answer" in row.cells else {}


def pope(row: TableRow) -> dict[str, Any]:
    """For scores/pope.py. A row of several categories, "popular,random", counts in each of them."""
    fields = answer(row)
    categories = tuple(one.strip() for one in row.cells["category"].split(","))
    return {**fields, "category": categories if len(categories) > 1 else categories[0]}


def mme(row: TableRow) -> dict[str, Any]:
    """For scores/mme.py. The column image_path names the image, which two rows share.

    Raises ValueError for a category that MME does not have.
    """
    category = row.cells["category"]
    if category not in (*PERCEPTION, *COGNITION):
        raise ValueError(f"the category is {category[:40]!r}, expected one of {', '.join((*PERCEPTION, *COGNITION))}")
    return {**answer(row), "image": row.cells["image_path"]}


def hallusion(row: TableRow) -> dict[str, Any]:
    """For scores/hallusion.py. Raises ValueError for an index without six parts."""
    if row.index.count("_") < 5:
        raise ValueError(f"the index is {row.index!r}, expected six parts joined by underscores")
    return {**choice(row)}


def mmmu(row: TableRow) -> dict[str, Any]:
    """For scores/mmmu.py; the category is the subject. Questions without options are open."""
    fields = _present(row, subject="category")
    if "answer" in row.cells:
        texts = _texts(row.cells["answer"])
        fields["answer"] = texts if len(texts) > 1 else texts[0]
    return {**fields, "options": list(row.options.values())}


def mmvet(row: TableRow) -> dict[str, Any]:
    """For scores/mmvet.py and its judge; the category lists capabilities."""
    capabilities = known_capabilities([one.strip() for one in row.cells["category"].split(",")])
    return {**_present(row, answer="answer"), "capabilities": capabilities, "question": row.cells["question"]}


def llava_bench(row: TableRow) -> dict[str, Any]:
    """For the judge of LLaVA-Bench: caption and reference answer are columns."""
    fields = _present(row, context="caption", reference="gpt4_ans", question="question")
    return {**fields, "category": f"llava_bench_{row.cells['category'].removeprefix('llava_bench_')}"}


def scienceqa(row: TableRow) -> dict[str, Any]:
    """For scores/scienceqa.py, whose answer is the place of the right choice."""
    choices, letters = list(row.options.values()), list(row.options)
    fields = {"choices": choices, **_present(row, hint="hint")}
    if "answer" in row.cells:
        if row.cells["answer"] not in letters:
            raise ValueError(f"the answer is {row.cells['answer']!r}, expected one of {', '.join(letters)}")
        fields["answer"] = letters.index(row.cells["answer"])
    return fields
