"""Score answers to one's own questions by a rule that the task names.

Items: "prediction", "answers" (references; patterns for regex; letters or texts of options for letter), "options" for
letter, "category".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from . import anls
from .letters import read_strict
from .result import Item, Scores, Verdict, choose, mean_credit

Judge = Callable[[str, Item], Verdict]
PERIODS = (".", "。", "．")
# Rules that take an answer which `exact` does not, and how.
LOOSER: Mapping[str, str] = MappingProxyType(
    {"letter": "reads the letter of an option", "contains": "looks for a reference among other words"}
)


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
    for pattern in [_compiled(one) for one in item["answers"]]:
        if found := pattern.search(text):
            return Verdict(found.group(1 if pattern.groups else 0), 1.0)
    return Verdict(None, 0.0)


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error


def _letter(text: str, item: Item) -> Verdict:
    options = item.get("options") or {}
    right = [_letter_of(str(answer), options) for answer in item["answers"]]
    letter = read_strict(text, options)
    return Verdict(letter, float(letter in right))


def _letter_of(answer: str, options: Mapping[str, str]) -> str:
    """Return the letter of a reference: itself, or that of the one option whose text it is. Raises ValueError."""
    if not options:
        raise ValueError("rule 'letter' needs 'options', and the question has none")
    if answer in options:
        return answer
    found = [letter for letter, text in options.items() if _plain(text) == _plain(answer)]
    if len(found) != 1:
        what = f"the text of {len(found)} options" if found else "neither the letter nor the text of an option"
        raise ValueError(f"the answer {answer!r} is {what}: expected one of {', '.join(options)}")
    return found[0]


def _anls(text: str, item: Item) -> Verdict:
    """Compare without a closing Chinese period. An ASCII one counts, as in the published figure."""
    answers = [_unclosed(str(answer)) for answer in item["answers"]]
    return anls.judge({**item, "prediction": _unclosed(text), "answers": answers})


def _unclosed(text: str) -> str:
    stripped = text.rstrip()
    return stripped[:-1] if stripped.endswith(PERIODS[1:]) else text


_JUDGES: Mapping[str, Judge] = MappingProxyType(
    {"exact": _exact, "contains": _contains, "regex": _regex, "letter": _letter, "anls": _anls}
)
RULES = tuple(_JUDGES)


def judge(item: Item, rule: str = "exact") -> Verdict:
    """Score one answer.

    exact: equal to a reference without case, surplus white space and a final period. contains: a reference occurs as
    whole words. regex: a pattern is found, as written. letter: the strict letter of an option. anls: similarity.
    Raises ValueError without references, or for one that the rule cannot use. An empty answer is failed.
    """
    if not item["answers"]:
        raise ValueError("An item has no reference answers.")
    text = str(item["prediction"])
    verdict = choose(_JUDGES, rule)(text, item)
    return verdict if text.strip() else Verdict(None, verdict.credit)


def score(items: Sequence[Item], rule: str = "exact") -> Scores:
    """Return the mean credit, overall and by category."""
    main = "anls" if rule == "anls" else "accuracy"
    scores = mean_credit(items, lambda item: judge(item, rule), ("category",), main=main)
    return replace(scores, notes=tuple(_hints(items))) if rule == "exact" else scores


def check(item: Item, rule: str) -> None:
    """Raise ValueError for a question whose references a rule cannot use, so that no answer could be scored."""
    judge({**item, "prediction": ""}, rule)


def _hints(items: Sequence[Item]) -> Iterator[str]:
    """Yield which looser rule a user may have meant, and how many more answers it takes."""
    wrong = [item for item in items if not judge(item, "exact").credit]
    counts = {rule: sum(_is_right(item, rule) for item in wrong) for rule in LOOSER}
    rule = max(counts, key=lambda name: counts[name])
    if counts[rule]:
        yield (
            f"{counts[rule]:,} of {len(items):,} answers are wrong here and right with `--rule {rule}`, which "
            f"{LOOSER[rule]}"
        )


def _is_right(item: Item, rule: str) -> bool:
    try:
        return judge(item, rule).credit == 1.0
    except ValueError:  # a question without options
        return False
