"""ScienceQA: accuracy over all questions, and over those with an image in the prompt (IMG).

Items: "prediction" (None if there is no answer), "answer" (index of the right choice), "choices", "prompt" (with
"<image>" if there is an image); for the columns of papers also "subject", "grade", "hint" (as in problems.json).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .letters import read_strict
from .result import Figure, Item, Scores, Verdict, choose, mean

LETTERS = "ABCDE"
_THE_ANSWER = re.compile(r"The answer is ([A-Z]).")  # NOTE: the period stands for any character, but there must be one
_SUBJECTS = (("NAT", "natural science"), ("SOC", "social science"), ("LAN", "language science"))


def _llava(text: str) -> str | None:
    """Read as eval_science_qa.py of LLaVA: a letter, "A. ...", or exactly one "The answer is A."."""
    if text in LETTERS and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    return _llava_v1(text)


def _llava_v1(text: str) -> str | None:
    """Read as LLaVA's first eval_science_qa.py: exactly one "The answer is A.". Where it guessed at random, fail."""
    found = _THE_ANSWER.findall(text)
    return found[0] if len(found) == 1 else None


def _lmms(text: str) -> str | None:
    """Read as lmms-eval's tasks/scienceqa/utils.py: a letter, or a capital letter and a period at the start."""
    if len(text) >= 2 and text[0].isupper() and text[1] == ".":
        return text[0]
    return text if len(text) == 1 else None


_READERS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {"llava": _llava, "llava_v1": _llava_v1, "lmms": _lmms}
)
RULES = (*_READERS, "strict")


def parse(text: str, choices: Sequence[str], rule: str = "llava") -> str | None:
    """Return the letter that a rule reads, or None. Under llava it may be one without a choice."""
    if rule == "strict":
        return read_strict(text, dict(zip(LETTERS, choices, strict=False)))
    return choose(dict.fromkeys(RULES) | dict(_READERS), rule)(text)


def index_of(letter: str | None, choices: Sequence[str]) -> int:
    """Return the index of a letter's choice, -1 without one, as LLaVA's result files hold it."""
    return LETTERS.index(letter) if letter and letter in LETTERS[: len(choices)] else -1


def judge(item: Item, rule: str = "llava") -> Verdict:
    """Score one answer. A missing one is failed and wrong."""
    prediction = item["prediction"]
    parsed = None if prediction is None else parse(str(prediction), item["choices"], rule)
    return Verdict(parsed, float(index_of(parsed, item["choices"]) == int(item["answer"])))


def score(items: Sequence[Item], rule: str = "llava") -> Scores:
    """Return accuracy, accuracy/IMG, and the columns of papers (NAT, SOC, LAN, TXT, NO, G1-6, G7-12) where known.

    num_failed counts answers without a letter and letters without a choice. A note says how many have no answer at all;
    under llava_v1 those are left out, as they were there.
    """
    num_missing = sum(item["prediction"] is None for item in items)
    if rule == "llava_v1":
        items = [item for item in items if item["prediction"] is not None]
    verdicts = [(item, judge(item, rule)) for item in items]
    columns: dict[str, list[float]] = {"IMG": []}
    for item, verdict in verdicts:
        for name in _columns(item):
            columns.setdefault(name, []).append(verdict.credit)
    figures: dict[str, Figure] = {"accuracy": mean(verdict.credit for _, verdict in verdicts)}
    figures |= {f"accuracy/{name}": mean(credits) for name, credits in columns.items()}
    num_failed = sum(index_of(verdict.parsed, item["choices"]) < 0 for item, verdict in verdicts)
    notes = (f"{num_missing} question{' has' if num_missing == 1 else 's have'} no answer",) if num_missing else ()
    return Scores("accuracy", figures, len(items), num_failed, notes)


def _columns(item: Item) -> list[str]:
    """Return the columns that an item counts in, besides the overall one.

    NOTE: a question without an answer has no prompt in LLaVA's script, so it does not count in IMG.
    """
    has_image = item["prediction"] is not None and "<image>" in item["prompt"]
    names = ["IMG"] if has_image else []
    names += [short for short, subject in _SUBJECTS if item.get("subject") == subject]
    if "hint" in item:
        has_text = bool(item["hint"])
        names += ["TXT"] if has_text else ([] if has_image else ["NO"])
    if "grade" in item:
        names.append("G1-6" if int(str(item["grade"]).removeprefix("grade")) <= 6 else "G7-12")
    return names


def line(scores: Scores) -> str:
    """Return the line that LLaVA's eval_science_qa.py prints. Raises ValueError if no prompt has an image."""
    every, image = scores.figures["accuracy"], scores.figures["accuracy/IMG"]
    if every.value is None or image.value is None:
        raise ValueError("IMG-Accuracy is not defined: no answered prompt has an image.")
    return (
        f"Total: {every.count}, Correct: {round(every.value * every.count)}, Accuracy: {every.value * 100:.2f}%, "
        f"IMG-Accuracy: {image.value * 100:.2f}%"
    )
