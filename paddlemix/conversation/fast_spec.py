"""Check the contents of a tokenizer.json, and change them so that no text becomes a special token."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..foreign_json import FLAG, TEXT, Kind, check_values, one_of, shown
from .added_tokens import AddedToken, check_number, parse_token
from .step_check import check_steps, regex_of

MAX_STEPS = 64  # of a normalizer or pre-tokenizer; released ones have fewer than ten
MAX_GROWTH = 16  # characters that normalizing may make of one
# A repeated group that contains a repetition, like (a+)+, may need exponential time.
CHARACTER_CLASS = re.compile(r"\\.|\[(?:\\.|\[:\w+:\]|[^\]\\])*\]", re.DOTALL)
NESTED = re.compile(r"\([^()]*(?:[*+]|\{\d+,\d*\})[^()]*\)(?:[*+]|\{\d+,\d*\})")
LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
# Keys of the object with the vocabulary. Pieces with a prefix or a suffix would be decoded wrongly.
NO_AFFIX = Kind(lambda value: value is None or value == "", "null: pieces with a prefix or suffix are not supported")
MODEL = {
    "type": one_of(("BPE", "Unigram")),
    "continuing_subword_prefix": NO_AFFIX,
    "end_of_word_suffix": NO_AFFIX,
    "unk_token": TEXT.or_null(),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), FLAG.or_null()),
}
# A name that no text matches: vocabularies spell spaces and control characters differently.
UNREACHABLE = " \x00{}"


def read_added(spec: Mapping[str, Any], where: str) -> dict[str, AddedToken]:
    """Return the added tokens of a file by their texts, in order. Raises ValueError."""
    listed = [] if spec.get("added_tokens") is None else spec["added_tokens"]
    if not isinstance(listed, list) or not all(isinstance(token, dict) for token in listed):
        raise ValueError(f"{where}: added_tokens is {str(listed)[:80]}, expected a list of objects")
    check_number(len(listed), f"added_tokens of {where}")
    tokens = [parse_token(token, token.get("id"), f"added_tokens of {where}") for token in listed]
    found = {token.text: token for token in tokens}
    if len(found) < len(tokens):
        raise ValueError(f"added_tokens of {where} has a token twice")
    return found


def check_spec(spec: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if this is not a tokenizer, or would take too long for some text."""
    tried = []
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        steps = list(steps_of(spec.get(key), where))
        if len(steps) > MAX_STEPS:
            raise ValueError(f"{where}: {key} has {len(steps)} steps, expected at most {MAX_STEPS}")
        for step in steps:
            _check_pattern(regex_of(step), where)
        tried += steps if key in ("normalizer", "pre_tokenizer") else []
        growth = math.prod(_growth(step) for step in steps)
        if growth > MAX_GROWTH:
            raise ValueError(f"{where}: {key} may make a text {growth} times as long, expected at most {MAX_GROWTH}")
    check_steps(spec, tried, MAX_GROWTH, where)
    model = spec.get("model")
    if not isinstance(model, Mapping):
        raise ValueError(f"{where} is not a tokenizer file: model is {shown(model)}, expected an object")
    if model.get("dropout"):
        raise ValueError(f"{where}: model has dropout {model['dropout']}, which makes ids random: expected null")
    if "vocab" in model:  # without one, it is not a tokenizer
        check_values(model, MODEL, f"{where}, model")


def steps_of(step: Any, where: str = "") -> Iterator[Mapping[str, Any]]:
    """Yield a step, or the steps of a sequence. Raises ValueError for anything else."""
    if step is None:
        return
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise ValueError(f"{where}: {str(step)[:80]} is not a step, expected an object with a type")
    if step["type"] != "Sequence":
        yield step
        return
    for key in LISTS:
        children = step.get(key) or []
        if not isinstance(children, list):
            raise ValueError(f"{where}: {key} is {str(children)[:80]}, expected a list of steps")
        for child in children:
            yield from steps_of(child, where)


def _check_pattern(expression: str | None, where: str) -> None:
    if expression is not None and NESTED.search(CHARACTER_CLASS.sub("x", expression)):
        raise ValueError(
            f"{where}: the pattern {expression[:80]!r} repeats a repetition, which could take forever for some text"
        )


def _growth(step: Mapping[str, Any]) -> int:
    """Return the maximum number of characters that a step makes of one, or adds in front."""
    if step["type"] == "Prepend" and isinstance(step.get("prepend"), str):
        return max(len(step["prepend"]), 1)
    pattern, content = step.get("pattern"), step.get("content")
    if step["type"] != "Replace" or not isinstance(content, str):
        return 1
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    return max(-(-len(content) // max(len(text or ""), 1)), 1)


def plain_spec(spec: Mapping[str, Any], tokens: Iterable[AddedToken], specials: set[str], where: str) -> dict[str, Any]:
    """Return the contents of a tokenizer.json whose pieces and merges never make a special token.

    All added tokens stay, so that the library numbers them as it does for transformers; its option for special tokens
    keeps them text. A special token in the vocabulary gets a name that no text matches. Raises ValueError for an
    invalid merge.
    """
    model = dict(spec.get("model") or {})
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(merges, list):
        model["merges"] = [merge for merge in merges if not _touches(merge, specials, where)]
    if isinstance(vocabulary, Mapping):
        kept = {model.get("unk_token")}  # the library looks it up by name, and no merge makes it
        hidden = specials - kept
        model["vocab"] = {UNREACHABLE.format(text) if text in hidden else text: i for text, i in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [
            [UNREACHABLE.format(one[0]) if one[0] in specials else one[0], *one[1:]] for one in vocabulary
        ]
    added = [token.as_json() for token in tokens]
    return dict(spec, model=model, added_tokens=added, post_processor=None, truncation=None, padding=None)


def _touches(merge: Any, specials: set[str], where: str) -> bool:
    """Return whether a merge makes or needs a special token. Older files write the pair as one string with a space."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or not all(isinstance(part, str) for part in pair):
        raise ValueError(f"{where} is not a tokenizer file: the merge {shown(merge)}, expected two texts")
    return "".join(pair) in specials or not specials.isdisjoint(pair)


def without_prefix(step: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a normalizer or pre-tokenizer that adds no space in front."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return dict(step, **{key: [part for child in step[key] if (part := without_prefix(child))]})
    if step["type"] == "Metaspace":
        return {key: value for key, value in step.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    return dict(step, add_prefix_space=False) if step.get("add_prefix_space") else step


def prefix_schemes(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each component that adds a space before a text, which decoding removes, and when: always, first or never.

    "normalizer": before each text between tokens found in the raw text. "pre_tokenizer": before each text between any
    tokens.
    """
    for key in ("normalizer", "pre_tokenizer"):
        for step in steps_of(spec.get(key)):
            if step["type"] == "Prepend":
                yield key, "always"
            elif step["type"] == "Metaspace":
                yield key, step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
                yield key, "always"


def check_prefix(spec: Mapping[str, Any], stated: bool | None, where: str) -> None:
    """Raise ValueError if add_prefix_space differs between tokenizer_config.json and tokenizer.json.

    transformers 4 follows the former for some classes, version 5 the latter.
    """
    if stated is None:
        return
    own = (spec.get("pre_tokenizer") or {}).get("add_prefix_space")
    has_prefix = any(scheme != "never" for _, scheme in prefix_schemes(spec))
    if (isinstance(own, bool) and own != stated) or (not stated and has_prefix):
        found = own if isinstance(own, bool) else has_prefix
        raise ValueError(
            f"{where} has add_prefix_space {found}, but the settings files have {stated}, so that ids depend on the "
            "tool: make both the same"
        )


def starts_with(spec: Mapping[str, Any], bos: str | None) -> bool:
    """Return whether the file itself adds the BOS token in front."""
    return bos is not None and special_at(spec, 0) == bos


def special_at(spec: Mapping[str, Any], place: int) -> str | None:
    """Return the special token that the file adds at the start (place 0) or end (-1) of every text, or None."""
    for step in steps_of(spec.get("post_processor")):
        single = step.get("single")
        if step["type"] == "TemplateProcessing" and isinstance(single, list) and single:
            special = single[place].get("SpecialToken") if isinstance(single[place], Mapping) else None
            return special.get("id") if isinstance(special, Mapping) else None
    return None
