"""Read the letter of an option in the answer to a multiple-choice question. Rules of lmms-eval: letters_lmms.py.

options: the texts of the options by letter, {"A": "a cat", "B": "a dog"}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from .letters_lmms import read_lmms_extract, read_lmms_mmbench
from .result import choose

Options = Mapping[str, str]
REFUSED = "Z"  # VLMEvalKit's letter for an answer that refuses to choose

_BRACKETED = re.compile(r"\(([A-Z])\)|（([A-Z])）|\[([A-Z])\]|【([A-Z])】")
_LEADING = re.compile(r"([A-Z])(?:$|[.):。：、）](?![A-Z](?![a-z])))")  # not the first letter of "A.B"
_RUN = re.compile("[A-D]+")
_SPACED_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED_CALL = "Failed to obtain answer via API"
_MAX_FROM_END = 5  # a letter counts as the answer if fewer tokens than this stand at or after it


def read_strict(text: str, options: Options) -> str | None:
    """Read a letter alone, before ". ) :" at the start, or in brackets anywhere; else exactly one option's text.

    Several letters, letters without an option and texts of several options are no answer.
    """
    text = text.strip()
    leading = _LEADING.match(text)
    letters = {next(filter(None, groups)) for groups in _BRACKETED.findall(text)}
    letters |= {leading.group(1)} if leading else set()
    if letters:
        letter = letters.pop()
        return letter if not letters and letter in options else None
    whole = [letter for letter, option in options.items() if text and _plain(option) == _plain(text)]
    found = whole or [letter for letter, option in options.items() if _contains_words(text, option)]
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return str(text).strip().rstrip(".。").lower()


def _contains_words(text: str, option: str) -> bool:
    """Return whether an option's text stands in a text as whole words."""
    plain = _plain(option)
    pattern = rf"(?<![a-z0-9_]){re.escape(plain)}(?![a-z0-9_])"  # Chinese has no spaces between words
    return bool(plain) and re.search(pattern, text.lower()) is not None


def read_exact(text: str, options: Options) -> str | None:
    """Read a letter that is the whole answer, as LLaVA's convert_seed_for_submission.py compares it."""
    return text if text in options else None


def read_xtuner(text: str, options: Options) -> str | None:
    """Read the first run of the letters A to D, as xtuner/tools/mmbench.py v0.1.23 does.

    NOTE: the whole run is the answer, so "ABCD" is never right, "Answer" reads as A, and an option E as nothing.
    """
    found = _RUN.search(text)
    return found.group() if found else None


def read_vlmevalkit(text: str, options: Options) -> str | None:
    """Read as can_infer of VLMEvalKit's matching_util.py; what it would ask a judge for is no answer.

    In this order: a refusal is "Z". The only letter among the tokens, if it is one of the last four of them. "Z" among
    the tokens, without another letter. The letter after "answer is". The only option whose text occurs, in an answer
    of at most twice the length of all options.
    """
    if _FAILED_CALL not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return REFUSED
        tokens = text.translate(_SPACED_MARKS).split()
        letters = [letter for letter in options if letter in tokens]
        if len(letters) == 1 and tokens.index(letters[0]) > len(tokens) - _MAX_FROM_END:
            return letters[0]
        if not letters and REFUSED in tokens:
            return REFUSED
        stated = _ANSWER_IS.search(text)
        if stated and stated.group(1).upper() in options:
            return stated.group(1).upper()
    if len(text.lower()) > 2 * sum(len(str(option)) for option in options.values()):
        return None
    found = [letter for letter, option in options.items() if str(option).lower() in text.lower()]
    return found[0] if len(found) == 1 else None


READERS: Mapping[str, Callable[[str, Options], str | None]] = MappingProxyType(
    {
        "strict": read_strict,
        "exact": read_exact,
        "xtuner": read_xtuner,
        "vlmevalkit": read_vlmevalkit,
        "lmms_mmbench": read_lmms_mmbench,
        "lmms_extract": read_lmms_extract,
    }
)
RULES = tuple(READERS)


def parse(text: str, options: Options, rule: str = "strict") -> str | None:
    """Return the letter that a rule reads, or None if it finds none. The letter may lack an option under xtuner."""
    return choose(READERS, rule)(text, options)
