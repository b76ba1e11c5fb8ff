"""Read yes or no in an answer, as POPE, MME and HallusionBench have it read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from .result import choose
from .vqa_text import without_marks_vlmevalkit

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def _strict(text: str) -> str | None:
    """Read the first word, if it is yes or no and the other word does not occur."""
    words = _WORD.findall(text.lower())
    if not words or words[0] not in ("yes", "no") or {"yes", "no"} <= set(words):
        return None
    return words[0]


def _llava(text: str) -> str:
    """Read as eval_pope.py of LLaVA and evaluate.py of AoiDragon/POPE: everything without a "no" is a yes.

    NOTE: that makes a yes of "NO", of an empty answer and of "No" after a line break.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _lmms_pope(text: str) -> str | None:
    """Read as lmms-eval's pope: the whole answer is yes or no, without case and outer white space."""
    whole = text.lower().strip()
    return whole if whole in ("yes", "no") else None


def _vlmevalkit(text: str) -> str | None:
    """Read as YOrN_Extraction of VLMEvalKit's yorn.py: exactly one of the two words occurs."""
    words = without_marks_vlmevalkit(text.lower()).split()
    found = [word for word in ("yes", "no") if word in words]
    return found[0] if len(found) == 1 else None


def _official_mme(text: str) -> str | None:
    """Read as MME's own calculation.py: yes, then no, among the first four characters.

    NOTE: so "snow", "know" and "not" are a no.
    """
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def _lmms_mme(text: str) -> str | None:
    """Read as lmms-eval's mme: as MME's own after stripping and deleting periods; y and n alone count too."""
    text = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or _official_mme(text)


READERS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {
        "strict": _strict,
        "llava": _llava,
        "lmms_pope": _lmms_pope,
        "vlmevalkit": _vlmevalkit,
        "official_mme": _official_mme,
        "lmms_mme": _lmms_mme,
    }
)
RULES = tuple(READERS)


def parse(text: str, rule: str = "strict") -> str | None:
    """Return "yes", "no", or None if the rule finds neither."""
    return choose(READERS, rule)(text)
