"""Check JSON files that other tools wrote: every key is used, known to change nothing, or named in an error.

A reader describes its file by `KeyRules` and by `Kind`s of values. Knows no file format and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class KeyRules:
    """The keys of one kind of file.

    used: read by the reader, which checks the values. inert: changes nothing here, whatever the value (versions,
    training settings). fixed: must have one of these values, because the reader supports no other; the first is the
    default of the library that the file belongs to. ignored: changes nothing that is computed here although a user
    could expect it to; `stated_but_unused` lists these keys.
    """

    used: frozenset[str] = frozenset()
    inert: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def __or__(self, other: KeyRules) -> KeyRules:
        """Return the rules of both; a key that `other` uses is used, even if it is fixed here."""
        fixed = {key: value for key, value in (*self.fixed.items(), *other.fixed.items()) if key not in other.used}
        return KeyRules(self.used | other.used, self.inert | other.inert, fixed, self.ignored | other.ignored)


def check_keys(values: Mapping[str, Any], rules: KeyRules, where: str, error: type[ValueError] = ValueError) -> None:
    """Raise `error` for keys that are neither used nor known to change nothing, with their values.

    where: the file, and the object in it. A key that is null, false or empty states nothing, unless its values are
    fixed; an empty value counts as null there.
    """
    unknown, wrong = [], []
    for key, value in values.items():
        if key in rules.used:
            continue
        if key in rules.fixed:
            is_nothing = is_silent(value) and value is not False and None in rules.fixed[key]
            if not is_nothing and not any(is_equal(value, accepted) for accepted in rules.fixed[key]):
                wrong.append(f"{key} {shown(value)} (expected {' or '.join(map(shown, rules.fixed[key]))})")
        elif key not in rules.inert and key not in rules.ignored and not is_silent(value):
            unknown.append(f"{key} {shown(value)}")
    if wrong:
        raise error(f"{where} states {', '.join(wrong)}, which is not supported here")
    if unknown:
        raise error(
            f"{where} states {', '.join(unknown)}, which this version does not know: a result that ignores it could be "
            "wrong. If you are sure that it changes nothing, remove it from the file"
        )


def stated_but_unused(values: Mapping[str, Any], rules: KeyRules) -> dict[str, Any]:
    """Return the keys of `ignored` that a file states, with their values."""
    return {key: value for key, value in values.items() if key in rules.ignored and not is_silent(value)}


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded; half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_silent(value: Any) -> bool:
    """Return whether a value states nothing: null, false, or an empty string, list or object."""
    return value is None or value is False or value in ("", [], {})


def is_equal(value: Any, accepted: Any) -> bool:
    """Return whether two JSON values are equal; true is not 1, and numbers may differ by rounding."""
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    if isinstance(value, int | float) and isinstance(accepted, int | float):
        return value == accepted or (_is_finite(value) and math.isclose(value, accepted, rel_tol=1e-6))
    if isinstance(value, list | tuple) and isinstance(accepted, list | tuple):
        pairs = zip(value, accepted, strict=False)
        return len(value) == len(accepted) and all(is_equal(one, other) for one, other in pairs)
    return value == accepted


def check_finite(value: Any, where: str, error: type[ValueError] = ValueError) -> None:
    """Raise `error` for a number that JSON does not have (NaN, Infinity) or no float can hold, at any depth.

    where: the file, and the place in it.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            check_finite(one, f"{where}: {key}", error) if isinstance(one, int | float | list | dict) else None
    elif isinstance(value, list):
        for one in value:
            check_finite(one, where, error)
    elif isinstance(value, int | float) and not _is_finite(value):
        raise error(f"{where} is {shown(value)}, expected a finite number")


def _is_finite(value: float) -> bool:
    """Return whether a number is finite; an integer beyond the largest float is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """Return a value as text for a message, shortened."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of too many digits
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


@dataclass(frozen=True)
class Kind:
    """What a value may be. expected: the same in words, to follow "expected"."""

    is_good: Callable[[Any], bool]
    expected: str

    def or_null(self) -> Kind:
        return Kind(lambda value: value is None or self.is_good(value), f"{self.expected}, or null")


def check_values(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str, error: type[ValueError] = ValueError
) -> None:
    """Raise `error` for values that are not of their kind; the error names key, value and the expected kind."""
    wrong = [
        f"{key} is {shown(values[key])}, expected {kind.expected}"
        for key, kind in kinds.items()
        if key in values and not kind.is_good(values[key])
    ]
    if wrong:
        raise error(f"{where}: {'; '.join(wrong)}")


def whole_number(least: int, most: int) -> Kind:
    """Return the kind of a whole number from least to most; true and false are not numbers."""
    return Kind(lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}")


def number(least: float, most: float, *, is_open: bool = False) -> Kind:
    """Return the kind of a finite number from least to most; is_open: least itself is refused."""

    def is_good(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            return False
        return (least < value if is_open else least <= value) and value <= most

    words = f"above {least:g}, at most {most:g}" if is_open else f"from {least:g} to {most:g}"
    return Kind(is_good, f"a number {words}")


def one_of(choices: Iterable[Any]) -> Kind:
    """Return the kind of a value that equals one of the choices."""
    choices = tuple(choices)
    return Kind(lambda value: any(is_equal(value, one) for one in choices), " or ".join(map(repr, choices)))


def list_of(kind: Kind, least: int = 1, most: int = 1 << 20) -> Kind:
    """Return the kind of a list of least to most values, all of one kind."""

    def is_good(value: Any) -> bool:
        return isinstance(value, list | tuple) and least <= len(value) <= most and all(map(kind.is_good, value))

    size = f"{least}" if least == most else f"at least {least}"
    return Kind(is_good, f"a list of {size} values, each {kind.expected}")


def either(first: Kind, second: Kind) -> Kind:
    """Return the kind of a value that is of either kind."""
    return Kind(lambda value: first.is_good(value) or second.is_good(value), f"{first.expected}, or {second.expected}")


FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str) and _is_unicode(value), "a string")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
