"""MMMU: multiple-choice and open questions of 30 subjects, read as in MMMU-Benchmark's eval_utils.py (lmms-eval's too).

Items: "prediction", "answer" (a letter, or a text or list of texts), "options" (list of texts, empty for an open
question), "subject".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .letters import read_strict
from .result import Item, Scores, Verdict, choose, mean_credit

RULES = ("mmmu", "strict")
_MIN_WORDS_OF_TEXT = 6
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = tuple(":,.!?;'")
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")

Value = float | str


def letters_of(options: Sequence[str]) -> dict[str, str]:
    """Return the options by letter, from A on."""
    return {chr(ord("A") + place): str(option) for place, option in enumerate(options)}


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    """Read the letter of an answer as MMMU does; None where the original picks one at random.

    "(A)", else "A " (even as the end of a word), else "A."; in more than five words else an option's text. Of several
    the last one.
    """
    by_letter = letters_of(options)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form, place_form in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in by_letter if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter, form=place_form: text.rfind(form.format(letter)))
    lower = text.lower()
    if len(text.split()) < _MIN_WORDS_OF_TEXT:
        return None
    found = [letter for letter, option in by_letter.items() if option.lower() in lower]
    return max(found, key=lambda letter: lower.rfind(by_letter[letter].lower()), default=None)


def parse_open(text: str) -> list[Value]:
    """Read the candidates in an answer to an open question: key phrases, and the numbers in them, without doubles.

    Numbers are rounded to 2 places; a single letter becomes two texts with a space, which hinder trivial matches.
    """
    phrases = list(_key_phrases(text)) or [text.strip().strip(".").lower()]
    numbers = [number for phrase in phrases for number in _numbers(phrase)]
    values = [value for candidate in (*phrases, *numbers) for value in normalized(candidate)]
    return list(dict.fromkeys(values))


def _key_phrases(text: str) -> Iterator[str]:
    """Yield for each line the shortest text after an indicator; in the last line "=" is one too."""
    lines = text.strip().strip(".").lower().split("\n")
    for number, line in enumerate(lines, 1):
        indicators = (*_INDICATORS, "=") if number == len(lines) else _INDICATORS
        tails = [line.split(indicator)[-1].strip() for indicator in indicators if indicator in line]
        shortest = ""
        for tail in tails:
            # NOTE: as in the original, an empty tail is replaced by the next one, and a later one may replace any.
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            yield shortest


def _numbers(text: str) -> list[str]:
    return [number for pattern in (_WITH_COMMAS, _SCIENTIFIC, _SIMPLE) for number in pattern.findall(text)]


def normalized(text: str) -> list[Value]:
    """Return a number rounded to 2 places, or a lower-case text; a single letter as " a" and "a "."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
    return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def is_right(candidates: Sequence[Value], answers: str | Sequence[str]) -> bool:
    """Return whether a candidate number is an answer, or a candidate text contains one."""
    expected = [
        value for answer in ([answers] if isinstance(answers, str) else answers) for value in normalized(answer)
    ]
    texts = [value for value in expected if isinstance(value, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in expected
        for candidate in candidates
    )


def judge(item: Item, rule: str = "mmmu") -> Verdict:
    """Score one answer. strict reads only the letter of a choice more strictly; open questions have one rule."""
    text, answer, options = str(item["prediction"]), item["answer"], item["options"]
    choose(dict.fromkeys(RULES, True), rule)
    if not options:
        candidates = parse_open(text)
        return Verdict(candidates, float(is_right(candidates, answer)))
    letter = read_strict(text, letters_of(options)) if rule == "strict" else parse_choice(text, options)
    return Verdict(letter, float(letter in ([answer] if isinstance(answer, str) else answer)))


def score(items: Sequence[Item], rule: str = "mmmu") -> Scores:
    """Return the accuracy, overall, by subject, and for choices and open questions."""
    items = [{**item, "form": "choice" if item["options"] else "open"} for item in items]
    return mean_credit(items, lambda item: judge(item, rule), ("subject", "form"))
