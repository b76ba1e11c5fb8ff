"""Score answers to one's own questions by a rule that the task names.

Items: "prediction", "answers" (references; patterns for regex; letters for letter), "options" for letter, "category".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from . import anls
from .letters import read_strict
from .result import Item, Scores, Verdict, choose, mean_credit

Judge = Callable[[str, Item], Verdict]
PERIODS = (".", "。", "．")


def _plain(text: str) -> str:
    """Return a text in lower case with single spaces and without a final period, also a Chinese one."""
    plain = " ".join(text.lower().split())
    return plain[:-1].rstrip() if plain.endswith(PERIODS) else plain


def _exact(text: str, item: Item) -> Verdict:
    return Verdict(text, float(_plain(text) in [_plain(str(answer)) for answer in item["answers"]]))


def _contains(text: str, item: Item) -> Verdict:
    """Look for a reference as whole words; in a text without spaces, as Chinese, anywhere."""
    patterns = [rf"(?<![a-z0-9_]){re.escape(_plain(str(one)))}(?![a-z0-9_])" for one in item["answers"] if str(one)]
    return Verdict(text, float(any(re.search(pattern, _plain(text)) for pattern in patterns)))


def _regex(text: str, item: Item) -> Verdict:
    """Search for a pattern; the answer is what it matches, its first group if it has one."""
    for pattern in item["answers"]:
        try:
            found = re.search(pattern, text)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error
        if found:
            return Verdict(found.group(1 if found.re.groups else 0), 1.0)
    return Verdict(None, 0.0)


def _letter(text: str, item: Item) -> Verdict:
    letter = read_strict(text, item["options"])
    return Verdict(letter, float(letter in [str(answer) for answer in item["answers"]]))


def _anls(text: str, item: Item) -> Verdict:
    return anls.judge(item)


_JUDGES: Mapping[str, Judge] = MappingProxyType(
    {"exact": _exact, "contains": _contains, "regex": _regex, "letter": _letter, "anls": _anls}
)
RULES = tuple(_JUDGES)


def judge(item: Item, rule: str = "exact") -> Verdict:
    """Score one answer.

    exact: equal to a reference without case, surplus white space and a final period. contains: a reference occurs as
    whole words. regex: a pattern is found, as written. letter: the strict letter of an option. anls: similarity.
    Raises ValueError without references or for a pattern that is not one. An empty answer is failed.
    """
    if not item["answers"]:
        raise ValueError("An item has no reference answers.")
    text = str(item["prediction"])
    verdict = choose(_JUDGES, rule)(text, item)
    return verdict if text.strip() else Verdict(None, verdict.credit)


def score(items: Sequence[Item], rule: str = "exact") -> Scores:
    """Return the mean credit, overall and by category."""
    main = "anls" if rule == "anls" else "accuracy"
    return mean_credit(items, lambda item: judge(item, rule), ("category",), main=main)
