"""One's own questions: one JSON object a line, with references.

Keys: "question"; "answers" (a list) or "answer"; "image" or "images" (paths in the image folder); "id" (the line's
number if there is none); "options" (a list, or texts by letter); "category"; "metadata" (not used).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ..item import Record
from .rows import Files, Read, id_of, image_in, json_lines, letters, records, text_of, texts_of

KEYS = ("id", "question", "answer", "answers", "image", "images", "options", "category", "metadata")
# How other projects call these keys.
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("question_id", "qid", "index"), "id"),
        **dict.fromkeys(("prompt", "text", "query", "instruction"), "question"),
        **dict.fromkeys(("label", "gt", "gt_answer", "ground_truth", "reference", "output", "response"), "answer"),
        **dict.fromkeys(("references", "gt_answers"), "answers"),
        **dict.fromkeys(("image_path", "image_file", "img"), "image"),
        "choices": "options",
    }
)


def read(files: Files) -> Read:
    """Read a file of questions. A key that is not known is a problem, as it is likely a mistake."""
    rows = json_lines(files["questions"])
    placed = [(where, _numbered(row, number)) for number, (where, row) in enumerate(rows, 1)]

    def make(row: dict) -> Record:
        _check_keys(row)
        names = texts_of(row, "images") if "images" in row else [text_of(row, "image")] if "image" in row else []
        images = tuple(image_in(files["images"], name) for name in names)
        options = _options(row.get("options") or {})
        fields = {"options": options}
        if "answer" in row or "answers" in row:
            fields["answers"] = texts_of(row, "answers") if "answers" in row else texts_of({"x": [row["answer"]]}, "x")
        if row.get("category"):
            fields["category"] = text_of(row, "category")
        name = id_of(row, "id")
        return Record(name, text_of(row, "question"), images, options=options, fields=fields, row={"id": name})

    return records(placed, make)


def _numbered(row: object, number: int) -> object:
    return {"id": number, **row} if isinstance(row, dict) else row


def _check_keys(row: Mapping) -> None:
    unknown = [_named(key) for key in row if key not in KEYS]
    if unknown:
        what = "unknown key" + "s" * (len(unknown) > 1)
        raise ValueError(f"{what} {', '.join(unknown)}; known: {', '.join(KEYS)}")
    for pair in (("answer", "answers"), ("image", "images")):
        if set(pair) <= set(row):
            raise ValueError(f"the row has {pair[0]!r} and {pair[1]!r}, expected one of them")


def _named(key: str) -> str:
    near = [OTHER_NAMES[key.lower()]] if key.lower() in OTHER_NAMES else difflib.get_close_matches(key, KEYS, n=1)
    return f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _options(value: object) -> dict[str, str]:
    if isinstance(value, list):
        return letters(value)
    if isinstance(value, dict) and all(len(name) == 1 and "A" <= name <= "Z" for name in value):
        return {name: str(text) for name, text in value.items()}
    raise ValueError(f"'options' is {value!r}, expected a list, or texts by the letters A to Z")
