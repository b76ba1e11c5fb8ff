"""Read the letter of an option as lmms-eval does: its rule for MMBench, and its shared rule of version 0.7.2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Options = Mapping[str, str]

_MMBENCH_LETTERS = "ABCDE"
# What may stand around a letter to make it a token of its own, in the order in which it is tried.
_AROUND = (
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
)
_FAILED_CALL = "Failed to obtain answer via API"
_MAX_TOKENS_OF_ARTICLE = 3


def read_lmms_mmbench(text: str, options: Options) -> str | None:
    """Read as can_infer of lmms-eval's tasks/mmbench/mmbench_evals.py; what it would ask a judge for is no answer.

    A letter A to E that alone among them is a token, then one with punctuation, then the only option whose text
    occurs. NOTE: the letters are five whatever the options are. A lone "A" among more than three tokens is taken for
    an article.
    """
    tokens = text.split()
    if _FAILED_CALL not in text:
        lone = [letter for letter in _MMBENCH_LETTERS if letter in tokens]
        if len(lone) == 1 and not (lone == ["A"] and len(tokens) > _MAX_TOKENS_OF_ARTICLE):
            return lone[0]
        for before, after in _AROUND:
            marked = [letter for letter in _MMBENCH_LETTERS if before + letter + after in tokens]
            if len(marked) == 1:
                return marked[0]
    # Only options A to D have texts there.
    found = [letter for letter in options if letter in "ABCD" and str(options[letter]).lower() in text.lower()]
    return found[0] if len(found) == 1 else None


_PHRASES = (
    "the answer is|answer is|the correct answer is|correct answer is|the best answer is|best answer is|"
    "the correct option is|correct option is|the best option is|best option is|the choice is|choice is|"
    "the correct choice is|correct choice is|i choose|i select|i pick|my answer is|my choice is|"
    "옵션|정답은|답은|답:|答案是|答案为|选|答えは"
).split("|")
# Forms of a letter in an answer with the weight that lmms-eval gives them.
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0


def read_lmms_extract(text: str, options: Options) -> str | None:
    """Read as extract_mcq_answer of lmms-eval's tasks/_task_utils/mcq_extract.py (75571cfe).

    The form with the greatest weight wins: the letter at the start, at the end, after a phrase, in brackets, before
    ". : )", before a space, anywhere; among equals the last place. NOTE: the last form reads "Because" as B.
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    padded = f" {text} "
    found = [*_forms(padded, options), *_after_phrases(padded, options), *_ends(padded, options)]
    if not found:
        found = [(_ANYWHERE, padded.rfind(letter), letter) for letter in options if letter in padded]
    if not found:
        return None
    best = max(weight_and_place[:2] for weight_and_place in found)
    return next(letter for weight, place, letter in found if (weight, place) == best)


def _forms(padded: str, options: Options) -> Iterator[tuple[int, int, str]]:
    """Yield weight, place and letter for every form that occurs, at its last place."""
    for form, weight in _FORMS:
        for letter in options:
            place = padded.rfind(form.format(letter))
            if place >= 0:
                yield weight, place, letter


def _after_phrases(padded: str, options: Options) -> Iterator[tuple[int, int, str]]:
    """Yield the first place of each letter after each phrase, even within a word."""
    lower = padded.lower()
    for phrase in _PHRASES:
        start = lower.find(phrase)
        if start < 0:
            continue
        for letter in options:
            place = padded.find(letter, start + len(phrase))
            if place >= 0:
                yield _PHRASE, place, letter


def _ends(padded: str, options: Options) -> Iterator[tuple[int, int, str]]:
    """Yield letters with which the text starts or ends, and which are not part of a word."""
    text = padded.strip()
    for letter in options:
        if text.startswith(letter) and not text[1:2].isalpha():
            yield _START, 0, letter
        if text.endswith(letter) and not text[-2:-1].isalpha():
            yield _END, len(padded) - 1, letter
