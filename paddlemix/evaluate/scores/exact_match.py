"""Exact match with options, as lmms-eval's metric exact_match; GQA, AI2D and others use it."""

from __future__ import annotations

import string

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_equal(text: str, answer: str, ignore_case: bool = True, ignore_punctuation: bool = True) -> bool:
    """Return whether two texts are equal. ignore_punctuation deletes ASCII punctuation; white space always counts."""
    if ignore_case:
        text, answer = text.lower(), answer.lower()
    if ignore_punctuation:
        text, answer = text.translate(_WITHOUT_PUNCTUATION), answer.translate(_WITHOUT_PUNCTUATION)
    return text == answer
