"""What holds for all scorers: order does not matter, perfect answers are perfect, failures are counted, imports."""

from __future__ import annotations

import ast
import importlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "paddlemix" / "evaluate" / "scores"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
OPTIONS = {"A": "a cat", "B": "a dog", "C": "a bird", "D": "a fish"}


def rotated(index: int, right: str, answer: str, key: str) -> dict:
    return {"index": index, "prediction": right, "answer": answer, "options": OPTIONS, "category": key, "split": "dev"}


# Items with right predictions, and predictions that are wrong or nothing.
SETS = {
    "vqa": [
        {"prediction": "two", "answers": ["2"] * 10, "answer_type": "number"},
        {"prediction": "red car", "answers": ["the red car"] * 4 + ["car"] * 6, "answer_type": "other"},
    ],
    "gqa": [
        {"prediction": "left", "answer": "left", "structural": "choose"},
        {"prediction": "dog", "answer": "dog", "structural": "query"},
    ],
    "anls": [{"prediction": "hello", "answers": ["hello", "hi"]}, {"prediction": "7", "answers": ["7"]}],
    "relaxed": [
        {"prediction": "10", "answer": "10", "category": "human"},
        {"prediction": "USA", "answer": "usa", "category": "augmented"},
    ],
    "pope": [
        {"prediction": "Yes", "answer": "yes", "category": "random"},
        {"prediction": "No", "answer": "no", "category": "random"},
        {"prediction": "Yes", "answer": "yes", "category": "popular"},
    ],
    "mme": [
        {"prediction": text, "answer": text, "category": category, "image": image}
        for category in ("count", "OCR")
        for image in "12"
        for text in ("Yes", "No")
    ],
    "mmbench": [rotated(1, "A", "A", "x"), rotated(1_000_001, "B", "B", "x"), rotated(2, "C", "C", "y")],
    "scienceqa": [
        {"prediction": letter, "answer": place, "choices": ["x", "y", "z"], "prompt": prompt}
        for place, (letter, prompt) in enumerate([("A", "<image>"), ("B", ""), ("C", "<image>")])
    ],
    "seed": [
        {"prediction": letter, "answer": letter, "data_type": kind, "question_type": "Scene"}
        for letter, kind in [("A", "image"), ("D", "video")]
    ],
    "choice": [
        {"prediction": letter, "answer": letter, "options": OPTIONS, "category": letter.lower()} for letter in "AB"
    ],
    "ocrbench": [
        {"prediction": "x^2", "answers": ["x^2"], "category": "Handwritten Mathematical Expression Recognition"},
        {"prediction": "stop", "answers": ["stop"], "category": "Regular Text Recognition"},
    ],
    "hallusion": [
        {"index": f"VD_figure_x_0_{figure}_0", "prediction": text, "answer": text, "category": "VD", "l2-category": "f"}
        for figure, text in enumerate(["Yes", "No"])
    ],
    "mmmu": [
        {"prediction": "B", "answer": "B", "options": ["x", "y"], "subject": "Art"},
        {"prediction": "42", "answer": "42", "options": [], "subject": "Math"},
    ],
    "captions": [
        {"id": 1, "prediction": "a dog runs in the park", "references": ["a dog runs in the park"]},
        {"id": 2, "prediction": "two red cars on a street", "references": ["two red cars on a street"]},
    ],
    "gpt_review": [{"review": "8 8", "category": "conv"}, {"review": "9 9", "category": "detail"}],
    "mmvet": [
        {"grades": ["1.0"], "capabilities": ["ocr", "math"]},
        {"grades": ["1.0", "1.0"], "capabilities": ["rec"]},
    ],
    "boxes": [{"prediction": "[0.1, 0.2, 0.5, 0.6]", "box": (0.1, 0.2, 0.5, 0.6)}],
    "custom": [{"prediction": "seven", "answers": ["seven"]}],
}
BEST = {"mme": 400.0, "ocrbench": 2.0, "gpt_review": 100.0, "mmvet": 100.0}
TEXTS = {"gpt_review": "review"}
RULES = {"custom": ["exact", "contains", "anls"], "scienceqa": ["llava", "lmms", "strict"]}


def scorer(name: str):
    return importlib.import_module(f"paddlemix.evaluate.scores.{name}")


def cases() -> list[tuple[str, str]]:
    found = [(name, rule) for name in SETS for rule in RULES.get(name, scorer(name).RULES)]
    # These normalize nothing, or take no text as it is, in the sets above.
    return [case for case in found if case not in [("vqa", "official"), ("gqa", "official")]]


def test_every_file_with_score_is_tested_here():
    assert {name for name in NAMES if hasattr(scorer(name), "score")} == set(SETS)


@pytest.mark.parametrize(("name", "rule"), cases())
def test_right_answers_are_perfect_in_every_figure(name, rule):
    scores = scorer(name).score(SETS[name], rule)
    assert math.isclose(scores.value(), BEST.get(name, 10.0 if name == "captions" else 1.0), abs_tol=1e-6)
    assert scores.num_failed == 0 and scores.num_items == len(SETS[name])
    assert all(figure.count > 0 for figure in scores.figures.values() if figure.value is not None)


@pytest.mark.parametrize(("name", "rule"), cases())
@pytest.mark.parametrize("seed", range(3))
def test_order_of_items_does_not_matter(name, rule, seed):
    drawn = random.Random(seed)
    items = [dict(item) for item in SETS[name]]
    key = TEXTS.get(name, "grades" if name == "mmvet" else "prediction")
    for item in drawn.sample(items, len(items) // 2):
        item[key] = ["0.3"] if name == "mmvet" else "7 9" if name == "gpt_review" else "no idea, B or 12"
    before = scorer(name).score(items, rule)
    drawn.shuffle(items)
    after = scorer(name).score(items, rule)
    assert after.figures == before.figures
    assert after.num_failed == before.num_failed


# Rules under which every text is an answer, so that none is failed.
NEVER_FAILS = {"vqa", "gqa", "anls", "relaxed", "ocrbench"}


@pytest.mark.parametrize(("name", "rule"), cases())
def test_answers_without_content_score_nothing_and_are_counted(name, rule):
    key = TEXTS.get(name, "prediction")
    items = [{**item, **({"grades": ["none"]} if name == "mmvet" else {key: ""})} for item in SETS[name]]
    if name == "mmmu":
        items = items[:1]
    scores = scorer(name).score(items, rule)
    taken_for_yes = (name, rule) == ("pope", "llava")
    assert taken_for_yes or not scores.value() or (name, rule) == ("gpt_review", "llava")
    all_texts_are_answers = name in NEVER_FAILS or (name, rule) in [("choice", "lmms_ai2d"), ("pope", "llava")]
    assert scores.num_failed == (0 if all_texts_are_answers else len(items))


@pytest.mark.parametrize("name", sorted(SETS))
def test_unknown_rule_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="Unknown rule 'lava'; known are"):
        scorer(name).score(SETS[name], "lava")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_scorers_import_the_standard_library_and_each_other_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or node.module.split(".")[0] in sys.stdlib_module_names


def test_importing_all_scorers_loads_neither_paddle_nor_numpy():
    lines = [f"import paddlemix.evaluate.scores.{name}" for name in NAMES]
    probe = "import json, sys; print(json.dumps([n for n in ('paddle', 'numpy', 'torch', 'PIL') if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, probe])], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
