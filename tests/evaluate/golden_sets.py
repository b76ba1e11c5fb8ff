"""The groups of golden scores that are about whole sets: MMBench's rotations, captions, released answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from paddlemix.evaluate.scores import captions as caption_scores
from paddlemix.evaluate.scores import mmbench, pope, scienceqa

Case = Mapping[str, Any]
Value = tuple[str, Any, Callable[[], Any]]


def mmbench_circular(case: Case, group: Case) -> Iterator[Value]:
    items = [
        {**row, "options": {letter: row[letter] for letter in "ABCDE" if row[letter] is not None}}
        for row in case["rows"]
    ]
    hits = mmbench.hits(items, "vlmevalkit")
    yield "vlmevalkit_hits", case["vlmevalkit_hits"], lambda: {str(index): int(hit) for index, hit in hits.items()}
    yield "xtuner", case["xtuner"], lambda: _xtuner(mmbench.score(items, "xtuner"))
    yield "lmms_static", case["lmms_static"], lambda: _lmms_static(items)


def _xtuner(scores: mmbench.Scores) -> dict[str, float]:
    start = "circular/l2-category/"
    by_category = {name.removeprefix(start): scores.value(name) for name in scores.figures if name.startswith(start)}
    return {"Average": scores.value(), **by_category}


def _lmms_static(items: list) -> list:
    scores = mmbench.score(items, "lmms")
    names = {short: name for name, short in mmbench.ABBREVIATIONS.items()}
    found = [{}, {}]
    for name in scores.figures:
        _, _, rest = name.partition("circular/")
        kind, _, value = rest.partition("/")
        if kind in ("category", "l2-category"):
            found[kind == "l2-category"][names.get(value, value)] = scores.value(name)
    return [scores.value(), *found]


def captions(case: Case, group: Case) -> Iterator[Value]:
    items = [
        {"id": name, "prediction": case["hyp"][name][0], "references": references}
        for name, references in case["refs"].items()
    ]
    scores = caption_scores.score(items, "words")
    value = case["value"]
    yield "Bleu_1..4", value["Bleu_1..4"], lambda: [scores.value(f"Bleu_{order}") for order in range(1, 5)]
    yield "CIDEr", value["CIDEr"], lambda: scores.value("CIDEr")
    yield "ROUGE_L", value["ROUGE_L"], lambda: scores.value("ROUGE_L")
    each = [caption_scores.captioned(item, "words") for item in items]
    yield "CIDEr_each", value["CIDEr_each"], lambda: caption_scores.cider(each)


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@functools.cache
def released_pope(folder: Path) -> dict[str, list[dict]]:
    """Return the released answers to POPE with their labels, by category; both files are in the same order."""
    answers = {row["question_id"]: row["text"] for row in read_rows(folder / "pope_answers.jsonl")}
    questions = read_rows(folder / "pope_questions.jsonl")
    found = {}
    for category in ("adversarial", "popular", "random"):
        labels = read_rows(folder / f"coco_pope_{category}.json")
        asked = [row["question_id"] for row in questions if row["category"] == category]
        found[category] = [
            {"prediction": answers[number], "answer": row["label"], "category": category}
            for number, row in zip(asked, labels, strict=True)
        ]
    return found


@functools.cache
def released_scienceqa(folder: Path) -> list[dict]:
    """Return the released answers to ScienceQA. The questions' files do not say how many choices there are: count."""
    outputs = json.loads((folder / "scienceqa_result.json").read_text(encoding="utf-8"))["outputs"]
    rows = json.loads((folder / "scienceqa_llava_test_CQM-A.json").read_text(encoding="utf-8"))
    items = []
    for row in rows:
        question, letter = (turn["value"] for turn in row["conversations"])
        lines = question.split("\n")
        choices = [line[3:] for line in lines if line[:1] in scienceqa.LETTERS and line[1:3] == ". "]
        items.append(
            {
                "prediction": outputs.get(row["id"]),
                "answer": scienceqa.LETTERS.index(letter),
                "choices": choices,
                "prompt": question,
            }
        )
    return items


def pope_end_to_end(case: Case, folder: Path) -> Iterator[Value]:
    for category, expected in case.items():
        items = released_pope(folder)[category]
        yield f"{category} n", expected["n"], lambda items=items: len(items)
        yield f"{category} printed", expected["printed"], lambda items=items: pope.lines(items)


def scienceqa_end_to_end(case: Case, folder: Path) -> Iterator[Value]:
    scores = scienceqa.score(released_scienceqa(folder), "llava")
    accuracy, image = scores.figures["accuracy"], scores.figures["accuracy/IMG"]
    yield "acc_in_file", case["acc_in_file"], lambda: accuracy.value * 100
    yield "recomputed", case["recomputed"], lambda: accuracy.value * 100
    yield "img_acc", case["img_acc"], lambda: image.value * 100
    yield "n", case["n"], lambda: accuracy.count
    yield "n_img", case["n_img"], lambda: image.count
    yield "failed_or_out_of_range", case["failed_or_out_of_range"], lambda: scores.num_failed
