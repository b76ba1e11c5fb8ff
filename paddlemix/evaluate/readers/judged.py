"""Sets whose answers a judge reads: LLaVA-Bench, the GPT review of LLaVA's first version, and MM-Vet."""

from __future__ import annotations

from ..item import Record
from ..scores.mmvet import CAPABILITIES
from .rows import Files, Read, id_of, image_in, json_items, json_lines, records, rows_by, text_of, texts_of

CATEGORIES = ("conv", "detail", "complex")


def read_llava_bench(files: Files) -> Read:
    """Read questions.jsonl, context.jsonl and answers_gpt4.jsonl of LLaVA-Bench (In-the-Wild).

    fields has what the judge gets: "question", "context" (the caption), "reference". Categories are llava_bench_conv
    and so on, as rule.json names them.
    """
    return _reviewed(files, "llava_bench_", lambda row: text_of(row, "caption"))


def read_gpt_review(files: Files) -> Read:
    """Read qa90_questions.jsonl, caps_boxes_coco2014_val_80.jsonl and qa90_gpt4_answer.jsonl.

    The context is the captions, a blank line, and a line "category: box" for each object.
    """
    return _reviewed(files, "", captions_and_boxes)


def captions_and_boxes(row: dict) -> str:
    """Return the context of a GPT review: captions, a blank line, and a line for each object."""
    boxes = [f"{one['category']}: {one['bbox']}" for one in row["instances"]]
    return "\n".join(texts_of(row, "captions")) + "\n\n" + "\n".join(boxes)


def _reviewed(files: Files, prefix: str, context_of) -> Read:
    contexts = rows_by(json_lines(files["context"]), "image")
    references = rows_by(json_lines(files["reference"]), "question_id")

    def make(row: dict) -> Record:
        name, image, category = id_of(row, "question_id"), text_of(row, "image"), row["category"]
        if category not in CATEGORIES:
            raise ValueError(f"the category is {category!r}, expected one of {', '.join(CATEGORIES)}")
        for found, key, role in ((contexts, image, "context"), (references, name, "reference")):
            if key not in found:
                raise ValueError(f"{files[role].name} has no row for {key!r}")
        question = text_of(row, "text")
        fields = {
            "question": question,
            "context": context_of(contexts[image]),
            "reference": text_of(references[name], "text"),
            "category": prefix + category,
        }
        source = image_in(files["images"], image, f"COCO_val2014_{image}")
        return Record(name, question, (source,), fields=fields, row={"question_id": row["question_id"]})

    return records(json_lines(files["questions"]), make)


def read_mmvet(files: Files) -> Read:
    """Read mm-vet.json. LLaVA's answer files name v1_7 just 7."""

    def make(row: dict) -> Record:
        question = text_of(row, "question")
        capabilities = known_capabilities(texts_of(row, "capability"))
        fields = {"answer": text_of(row, "answer"), "capabilities": capabilities, "question": question}
        image = image_in(files["images"], text_of(row, "imagename"))
        name = row["id"]
        return Record(name, question, (image,), fields=fields, row={"id": name}, other_ids=(name.rpartition("_")[2],))

    return records(json_items(files["questions"]), make)


def known_capabilities(names: list[str]) -> list[str]:
    """Return the names of MM-Vet's capabilities as they are. Raises ValueError for another one."""
    unknown = [name for name in names if name not in CAPABILITIES]
    if unknown:
        raise ValueError(f"unknown capability {unknown[0][:40]!r}, expected some of {', '.join(CAPABILITIES)}")
    return names
