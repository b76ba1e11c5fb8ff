"""The documents in lmms-eval's samples as questions: each sample holds the row of the data set without its images.

Only sets whose documents hold all that the scorer needs are here. The names of the keys are those of lmms-lab's data
sets, which lmms-eval's task files read; it leaves out every key with "image" in its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..readers.rows import id_of, letters, text_of, texts_of

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What a document states. id: of the question, None for the place of the sample in the data set."""

    id: str | None
    fields: Mapping[str, Any]


def _pope(row: Document) -> Known:
    category, label = text_of(row, "category"), text_of(row, "answer").strip().lower()
    fields = {"answer": label, "category": category}
    if isinstance(row.get("image_source"), str):
        fields["image"] = row["image_source"]
    return Known(f"{category}/{id_of(row, 'question_id')}", fields)


def _mme(row: Document) -> Known:
    """The two questions on an image have one id; the text tells them apart."""
    name = text_of(row, "question_id")
    fields = {"answer": text_of(row, "answer"), "category": text_of(row, "category"), "image": name}
    return Known(f"{name}/{text_of(row, 'question')}", fields)


def _gqa(row: Document) -> Known:
    types = row.get("types") or {}
    fields = {key: types[key] for key in ("structural", "semantic") if types.get(key)}
    return Known(id_of(row, "id"), {**fields, "answer": text_of(row, "answer")})


def _chartqa(row: Document) -> Known:
    return Known(None, {"answer": text_of(row, "answer"), "category": text_of(row, "type").removesuffix("_test")})


def _documents(row: Document) -> Known:
    """DocVQA and InfographicVQA; test sets have no answers."""
    return Known(id_of(row, "questionId"), {"answers": texts_of(row, "answers")} if row.get("answers") else {})


def _textvqa(row: Document) -> Known:
    return Known(id_of(row, "question_id"), {"answers": texts_of(row, "answers")} if row.get("answers") else {})


def _vqav2(row: Document) -> Known:
    fields = {key: row[key] for key in ("answer_type", "question_type") if row.get(key)}
    if row.get("answers"):
        fields["answers"] = [text_of(answer, "answer") for answer in row["answers"]]
    return Known(id_of(row, "question_id"), fields)


def _ai2d(row: Document) -> Known:
    """The answer is the place of the right option, as a number or its digits."""
    options, place = letters(texts_of(row, "options")), int(row["answer"])
    if not 0 <= place < len(options):
        raise ValueError(f"the answer is {place}, and there are {len(options)} options")
    return Known(None, {"answer": list(options)[place], "options": options})


DOCUMENTS: Mapping[str, Callable[[Document], Known]] = MappingProxyType(
    {
        "pope": _pope,
        "mme": _mme,
        "gqa": _gqa,
        "chartqa": _chartqa,
        "docvqa": _documents,
        "infovqa": _documents,
        "textvqa": _textvqa,
        "vqav2": _vqav2,
        "ai2d": _ai2d,
    }
)
