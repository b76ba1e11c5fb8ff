"""VQAv2, VizWiz, TextVQA and GQA: short answers to questions, in their own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..item import Record
from ..scores.vqa import NUM_ANSWERS
from . import llava_questions
from .rows import Files, Read, id_of, image_in, json_items, json_list, labels_of, read_json, records, rows_by, text_of


def read_vqav2(files: Files) -> Read:
    """Read v2_OpenEnded_mscoco_*_questions.json, and v2_mscoco_val2014_annotations.json where there is one.

    NOTE: the images of test-dev2015 are those of test2015.
    """
    found = read_json(files["questions"], dict)
    subtype = labels_of(found, "data_subtype").get("data_subtype") or _subtype_of(files["questions"])
    prefix = f"COCO_{'test2015' if subtype.startswith('test') else subtype}_"
    rows = json_list(files["annotations"], "annotations") if "annotations" in files else []
    answered = rows_by(rows, "question_id")

    def make(row: dict) -> Record:
        name, fields = id_of(row, "question_id"), {}
        if "annotations" in files:
            if name not in answered:
                raise ValueError(f"there is no annotation in {files['annotations'].name}")
            fields = {
                **labels_of(answered[name], "answer_type", "question_type"),
                "answers": _ten(_answers(answered[name])),
            }
        image = image_in(files["images"], f"{prefix}{int(row['image_id']):012d}.jpg")
        row_out = {"question_id": int(name), "image_id": int(row["image_id"])}
        return Record(name, text_of(row, "question"), (image,), fields=fields, row=row_out)

    return records(json_list(files["questions"], "questions"), make)


def _subtype_of(path: Path) -> str:
    """Return "val2014" of v2_OpenEnded_mscoco_val2014_questions.json."""
    return path.stem.removesuffix("_questions").rpartition("_")[2]


def _answers(row: Mapping[str, Any]) -> list[Any]:
    return [one["answer"] for one in row["answers"]]


def _ten(texts: list[Any]) -> list[str]:
    """Return human answers, which may be blank, as they are. Raises ValueError if they are not ten texts."""
    if len(texts) != NUM_ANSWERS or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the question has {len(texts)} human answers, expected {NUM_ANSWERS} texts")
    return texts


def read_vizwiz(files: Files) -> Read:
    """Read VizWiz's train.json, val.json or test.json; the last has no answers. The image's name is the id."""

    def make(row: dict) -> Record:
        name, fields = text_of(row, "image"), {}
        if "answers" in row:
            fields["answers"] = _ten(_answers(row))
        fields |= labels_of(row, "answer_type")
        image = image_in(files["images"], name)
        return Record(name, text_of(row, "question"), (image,), fields=fields, row={"image": name})

    return records(json_list(files["questions"]), make)


def read_textvqa(files: Files) -> Read:
    """Read TextVQA_0.5.1_val.json with the OCR tokens of TextVQA_Rosetta_OCR_v0.2_val.json.

    Role "ocr" may also be LLaVA's llava_textvqa_val_v051_ocr.jsonl, which holds the same tokens; without it, or for an
    image without an entry, the record has no tokens. LLaVA's answer files name a row by its image.
    """
    tokens = _ocr_tokens(files["ocr"]) if "ocr" in files else {}

    def make(row: dict) -> Record:
        name, image_id, question = id_of(row, "question_id"), id_of(row, "image_id"), text_of(row, "question")
        fields = {"answers": _ten(row["answers"])} if "answers" in row else {}
        ocr = tokens.get((image_id, question.lower()), tokens.get((image_id, "")))
        if tokens and ocr is None:
            raise ValueError(f"{files['ocr'].name} has no OCR tokens for image {image_id}")
        image = image_in(files["images"], f"{image_id}.jpg")
        row_out = {"question_id": int(name), "image_id": image_id}
        return Record(name, question, (image,), ocr=ocr, fields=fields, row=row_out, other_ids=(image_id,))

    return records(json_list(files["questions"], "data"), make)


def _ocr_tokens(path: Path) -> dict[tuple[str, str], str]:
    """Return joined tokens by image and lower-case question; the question is "" if they are those of any."""
    if path.suffix == ".jsonl":
        found = llava_questions.rows(path)
        return {(str(row["question_id"]), row["text"].lower()): row["ocr"] for row in found if row["ocr"] is not None}
    rows = rows_by(json_list(path, "data"), "image_id")
    return {(name, ""): ", ".join(row["ocr_tokens"]) for name, row in rows.items() if _is_texts(row.get("ocr_tokens"))}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def read_gqa(files: Files) -> Read:
    """Read testdev_balanced_questions.json; the id of a question is its key."""

    def make(row: dict) -> Record:
        fields: dict[str, Any] = labels_of(row.get("types") or {}, "structural", "semantic")
        if "answer" in row:
            fields["answer"] = text_of(row, "answer")
        image = image_in(files["images"], f"{id_of(row, 'imageId')}.jpg")
        return Record(row["id"], text_of(row, "question"), (image,), fields=fields, row={"questionId": row["id"]})

    return records(json_items(files["questions"]), make)
