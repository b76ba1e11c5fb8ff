"""Accuracy of GQA: exact match with one answer.

Items: "prediction", "answer"; for figures by group "structural" and "semantic" (the question's types in GQA's file).
Consistency, validity, plausibility, grounding and distribution need further files of GQA and are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .exact_match import is_equal
from .result import Item, Scores, Verdict, choose, mean_credit


def submitted(text: str) -> str:
    """Return the prediction that LLaVA's convert_gqa_for_eval.py writes for GQA's eval.py."""
    return text.rstrip(".").lower()


_EQUALS: Mapping[str, Callable[[str, str], bool]] = MappingProxyType(
    {
        "llava": lambda text, answer: submitted(text) == answer,
        "official": lambda text, answer: text == answer,
        "lmms": is_equal,
        "vlmevalkit": lambda text, answer: text.strip().lower() == answer.strip().lower(),
    }
)
RULES = tuple(_EQUALS)


def parse(text: str, rule: str = "llava") -> str:
    """Return the text that is compared. Every text is an answer, so nothing fails."""
    choose(_EQUALS, rule)
    return submitted(text) if rule == "llava" else text


def judge(item: Item, rule: str = "llava") -> Verdict:
    """Compare a prediction with its answer.

    llava: without final periods, lower-case, then GQA's own comparison. official: GQA's eval.py, where every character
    counts. lmms: without case and punctuation. vlmevalkit: without case and outer white space.
    """
    text = str(item["prediction"])
    return Verdict(parse(text, rule), float(choose(_EQUALS, rule)(text, str(item["answer"]))))


def score(items: Sequence[Item], rule: str = "llava") -> Scores:
    """Return the accuracy, overall, for open and binary questions, and by structural and semantic type.

    As in GQA's eval.py, questions of the structural type "query" are open and all others binary.
    """
    items = [_with_form(item) for item in items]
    return mean_credit(items, lambda item: judge(item, rule), ("form", "structural", "semantic"))


def _with_form(item: Item) -> Item:
    structural = item.get("structural")
    return item if structural is None else {**item, "form": "open" if structural == "query" else "binary"}
