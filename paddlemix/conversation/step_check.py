"""Try steps of a tokenizer.json that may not finish, or may crash, on texts in another process.

A regular expression does not show whether it takes a second or a year for some text, and a damaged normalizer table
crashes the process. The steps in the released models of the known families are harmless; a file with other steps is
tried once.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .limited_process import run_limited

# LLaMA 3 and Qwen2.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_PATTERNS = frozenset(_WORDS.replace("DIGITS", digits) for digits in (r"\p{N}", r"\p{N}{1,3}"))
KNOWN_STEPS = frozenset(
    "NFC NFD NFKC NFKD Lowercase Strip StripAccents Prepend Replace ByteLevel Metaspace Split Digits Whitespace "
    "WhitespaceSplit Punctuation".split()
)
PROBE = 8000  # characters of a text
PROBED = ("a", "A", "1", " ", "\n", "!", "\u4e2d", "\u0301", "a ", "aB1! ", " \n")
NO_MODEL = {"type": "BPE", "vocab": {}, "merges": []}
MAX_OWN = 16  # probes made of the pattern's own characters


def check_steps(spec: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], max_growth: int, where: str) -> None:
    """Raise ValueError if normalizer or pre-tokenizer fail for some text, take too long, or make it too long.

    steps: the steps of both.
    """
    steps = list(steps)
    if all(_is_known(step) for step in steps):
        return
    patterns = [pattern for step in steps if (pattern := regex_of(step)) is not None]
    parts = {key: spec.get(key) for key in ("normalizer", "pre_tokenizer")}
    try:
        reason = _try(json.dumps({**parts, "patterns": patterns, "max_growth": max_growth}))
    except ValueError as error:
        reason = str(error)
    if reason:
        raise ValueError(f"{where}: its normalizer and pre_tokenizer cannot be used: {reason}")


def regex_of(step: Mapping[str, Any]) -> str | None:
    """Return the regular expression of a step, or None."""
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    return expression if isinstance(expression, str) else None


def _is_known(step: Mapping[str, Any]) -> bool:
    expression = regex_of(step)
    return step["type"] in KNOWN_STEPS and (expression is None or expression in KNOWN_PATTERNS)


@functools.lru_cache(maxsize=16)
def _try(request: str) -> str:
    """Return the reason why the steps fail, empty if they work."""
    return json.loads(run_limited(__name__, request))


def main() -> None:
    """Try the steps from standard input and write the reason why they fail to standard output."""
    request = json.load(sys.stdin)
    try:
        reason = _tried(request)
    except BaseException as error:  # a panic of Rust is a BaseException
        reason = str(error)[:300] or type(error).__name__
    json.dump(reason, sys.stdout)


def _tried(request: Mapping[str, Any]) -> str:
    import tokenizers

    parts = {key: request[key] for key in ("normalizer", "pre_tokenizer")}
    built = tokenizers.Tokenizer.from_str(json.dumps({"model": NO_MODEL, **parts}))
    for text in _probes(request["patterns"]):
        read = text if built.normalizer is None else built.normalizer.normalize_str(text)
        if len(read) > request["max_growth"] * len(text):
            return f"{len(text)} characters become {len(read)}"
        if built.pre_tokenizer is not None:
            built.pre_tokenizer.pre_tokenize_str(read)
    return ""


def _probes(patterns: Iterable[str]) -> Iterator[str]:
    """Yield long texts that a pattern may repeat over: its own characters and words, and some of each kind."""
    own = [unit for pattern in patterns for unit in (*re.findall(r"\w{2,8}", pattern), *pattern) if unit not in "\\()"]
    for unit in dict.fromkeys((*PROBED, *own[:MAX_OWN])):
        run = unit * (PROBE // len(unit))
        yield run
        yield f"{run}\x01~{''.join(own)}"  # a search ends at once if a character that it needs is missing
