"""Write the files that benchmarks' servers and own scripts take. Each writer gets a path, questions and answers by id.

A question without an answer is in the file with an empty one where the benchmark wants every question, else it is left
out, as said below. What is left out is the caller's to report.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..output import replacing, write_json
from .files.workbook import import_openpyxl
from .item import Question
from .scores.gqa import submitted
from .scores.vqa_text import normalize_evalai

Texts = Mapping[str, str]
PREDICTION_COLUMN = 6  # of MMBench's file, counted from 0, as LLaVA's convert_mmbench_for_submission.py inserts it
# Characters that a workbook cannot hold.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def mmbench(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write MMBench's workbook: the table's columns that it wants, in order, and "prediction"."""
    columns = list(questions[0].row) if questions else []
    place = min(PREDICTION_COLUMN, len(columns))
    rows = [[*columns[:place], "prediction", *columns[place:]]]
    for one in questions:
        cells = [one.row.get(name, "") for name in columns]
        rows.append([*cells[:place], texts.get(one.id, ""), *cells[place:]])
    write_workbook(path, rows, number_columns=("index",))


def write_workbook(path: Path, rows: Sequence[Sequence[Any]], number_columns: Sequence[str] = ()) -> None:
    """Write rows, the header first, as texts; whole numbers in the columns that are named so. Empty cells stay empty.

    Needs openpyxl. Text that starts with "=" stays text. Characters that a workbook
    cannot hold are left out.
    """
    openpyxl = import_openpyxl()
    book = openpyxl.Workbook(write_only=False)
    sheet = book.active
    for number, row in enumerate(rows, 1):
        for column, value in enumerate(row, 1):
            text = _NOT_IN_XML.sub("", str(value))
            if not text:
                continue
            cell = sheet.cell(number, column)
            if number > 1 and rows[0][column - 1] in number_columns and text.isdecimal():
                cell.value = int(text)
            else:
                cell.value = text
                cell.data_type = "s"
    content = io.BytesIO()
    book.save(content)
    with replacing(path) as file:
        file.write(content.getvalue())


def vqav2(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a list of question_id and the answer, normalized as on EvalAI; a missing answer is "".

    NOTE: the server wants all 447,793 questions of test2015, also for figures on test-dev.
    """
    write_json(
        path,
        [
            {"question_id": int(one.row["question_id"]), "answer": normalize_evalai(texts.get(one.id, ""))}
            for one in questions
        ],
    )


def textvqa(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a list of question_id and answer, normalized as lmms-eval normalizes it."""
    vqav2(path, questions, texts)


def vizwiz(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a list of image and the answer, normalized as on EvalAI. Raises ValueError if images have no names."""
    names = [str(one.row.get("image") or one.row.get("image_path", "")).rpartition("/")[2] for one in questions]
    if not all(names):
        raise ValueError("the table does not name the images, which VizWiz's server knows the answers by")
    answers = [normalize_evalai(texts.get(one.id, "")) for one in questions]
    write_json(path, [{"image": name, "answer": answer} for name, answer in zip(names, answers, strict=True)])


def gqa(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a list of questionId and prediction for GQA's eval.py, which stops at a missing one."""
    rows = [{"questionId": one.id, "prediction": submitted(texts.get(one.id, ""))} for one in questions]
    write_json(path, rows)


def docvqa(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a list of questionId (a number) and answer for rrc.cvc.uab.es, which refuses missing ids."""
    rows = [
        {"questionId": int(one.row.get("questionId") or one.id), "answer": texts.get(one.id, "")} for one in questions
    ]
    write_json(path, rows)


def seed(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write a line of question_id and prediction for each answer, for SEED-Bench's leaderboard."""
    rows = [{"question_id": one.id, "prediction": texts[one.id]} for one in questions if one.id in texts]
    write_lines(path, rows)


def mmvet(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write MM-Vet's object of answers by id, "v1_0"."""
    write_json(path, {one.row.get("id", one.id): texts.get(one.id, "") for one in questions})


def captions(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write COCO's list of results: image_id and caption."""
    rows = [
        {"image_id": one.row.get("image_id", one.id), "caption": texts[one.id]} for one in questions if one.id in texts
    ]
    write_json(path, rows)


def by_id(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write an object of answers by id, as MMMU's server takes it."""
    write_json(path, {(one.other_ids or (one.id,))[-1]: texts.get(one.id, "") for one in questions})


def llava(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write LLaVA's answer file, one line for each answer, for its own scripts."""
    write_lines(
        path,
        [
            {
                "question_id": one.row.get("question_id", one.id),
                "prompt": one.pieces[-1].removeprefix("\n"),
                "text": texts[one.id],
                "answer_id": "",
                "model_id": "",
                "metadata": {},
            }
            for one in questions
            if one.id in texts
        ],
    )


def mme(path: Path, questions: Sequence[Question], texts: Texts) -> None:
    """Write the lines that MME's calculation.py reads, "image, question, right answer, answer" with tabs.

    It wants a file for each category: they lie beside `path`, whose name they do not use, as CATEGORY.txt.
    """
    lines: dict[str, list[str]] = {}
    for one in questions:
        answer = " ".join(texts.get(one.id, "").split())  # a tab or a new line would break the four columns
        image = one.fields["image"].rpartition("/")[2]  # a table names it with its folder
        parts = (image, one.row["question"], one.fields["answer"], answer)
        lines.setdefault(one.fields["category"], []).append("\t".join(parts))
    for category, members in lines.items():
        with replacing(path.parent / f"{category}.txt") as file:
            file.write(("\n".join(members) + "\n").encode())


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with replacing(path) as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
