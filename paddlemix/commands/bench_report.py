"""Compare two outputs of `paddlemix bench --json`: how many times as good is each part, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..foreign_json import OBJECT, TEXT, Kind, check_values, list_of, number, whole_number
from ..json_object import read_object

ABOVE_ZERO = number(0, 1e18, is_open=True)
KINDS: dict[str, Kind] = {
    "model": TEXT,
    "device": TEXT,
    "tensor_parallel": whole_number(1, 1 << 16),
    "processor": OBJECT,
    "dtype": TEXT,
    "weights": TEXT,
    "context": whole_number(1, 1 << 40),
    "steps": whole_number(1, 1 << 40).or_null(),
    "load_seconds": ABOVE_ZERO,
    "limits": OBJECT,
    "rows": list_of(OBJECT),
    "peak_memory_bytes": ABOVE_ZERO,
    "versions": OBJECT,
}
ROW_KINDS = {"what": TEXT, "size": TEXT, "seconds": ABOVE_ZERO, "rate": ABOVE_ZERO.or_null(), "unit": TEXT}
LIMITS = {"copy_bytes_per_second": ("copies", "GB/s"), "matrix_flops_per_second": ("multiplies", "GFLOP/s")}
EARLIER = {"tensor_parallel": 1, "steps": None}  # of reports from before these keys
# What two runs should have in common, with its name in the list of differences.
CONDITIONS = {
    "model": "model",
    "processor": "processor",
    "device": "device",
    "tensor_parallel": "--tensor-parallel",
    "dtype": "dtype",
    "weights": "weights",
    "context": "context",
    "steps": "--steps",
    "versions": "versions",
}
NOISE = 0.02  # a ratio this close to 1 counts as the same
LEGEND = "A ratio above 1 is better now. Runs differ by some percent anyway: measure in turn, more than once."


@dataclass(frozen=True)
class Part:
    """A part of two reports. ratio: how many times as good it is now: faster, or less memory."""

    what: str
    size: str
    before: float
    now: float
    unit: str
    ratio: float

    @property
    def verdict(self) -> str:
        if abs(self.ratio - 1) < NOISE:
            return "the same"
        words = ("less", "more") if self.what == "memory" else ("faster", "slower")
        return words[self.ratio < 1]


def read_report(path: str) -> dict[str, Any]:
    """Return an output of `paddlemix bench --json`. Raises ValueError for any other file."""
    what = f"--compare {path}"
    found = {**EARLIER, **read_object(path, ValueError, what)}
    hint = "expected an output of `paddlemix bench --json`"
    if missing := [key for key in KINDS if key not in found]:
        raise ValueError(f"{what} has no {' and no '.join(missing[:3])}: {hint}")
    check_values(found, KINDS, what)
    check_values({"processor": found["processor"].get("name")}, {"processor": TEXT}, what)
    check_values(dict.fromkeys(LIMITS) | found["limits"], dict.fromkeys(LIMITS, ABOVE_ZERO), what)
    for row in found["rows"]:
        check_values(dict.fromkeys(ROW_KINDS) | row, ROW_KINDS, what)
    return found


def compare(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the comparison of two reports for JSON."""
    first, second = ({part[:2]: part for part in _figures(report)} for report in (before, now))
    parts = [_part(first[key], second[key]) for key in first if key in second]
    return {
        "differences": list(_differences(before, now)),
        "parts": [{**asdict(part), "verdict": part.verdict} for part in parts],
        "only_before": [" ".join(key) for key in first if key not in second],
        "only_now": [" ".join(key) for key in second if key not in first],
    }


def comparison_text(found: dict[str, Any]) -> str:
    """Return a comparison as a table."""
    lines = [f"{'':30}{'before':>12}{'now':>12}{'':10}{'ratio':>9}"]
    for part in found["parts"]:
        name = f"{part['what']:11}{part['size']:19}"
        figures = f"{part['before']:12,.1f}{part['now']:12,.1f} {part['unit']:9}"
        lines.append(f"{name}{figures}{part['ratio']:9.2f} {part['verdict']}")
    for key, words in (("only_before", "before"), ("only_now", "now")):
        lines += [f"only measured {words}: {', '.join(found[key])}"] * bool(found[key])
    lines += ["", LEGEND]
    if found["differences"]:
        lines.append("These differ too, so that the ratios are not of the program alone:")
        lines += [f"  {one['what']}: {one['before']} before, {one['now']} now" for one in found["differences"]]
    return "\n".join(lines)


def _figures(report: dict[str, Any]) -> Iterator[tuple[str, str, float, str]]:
    """Yield (what, size, figure, unit); a figure is better if it is larger, but for seconds and memory."""
    yield "loading", "", report["load_seconds"] * 1e3, "ms"
    for row in report["rows"]:
        figure, unit = (row["seconds"] * 1e3, "ms") if row["rate"] is None else (row["rate"], row["unit"])
        yield row["what"], row["size"], figure, unit
    yield "memory", "peak", report["peak_memory_bytes"] / 1e6, "MB"
    for key, (word, unit) in LIMITS.items():
        yield "machine", word, report["limits"][key] / 1e9, unit


def _part(before: tuple[str, str, float, str], now: tuple[str, str, float, str]) -> Part:
    what, size, first, unit = before
    second = now[2]
    is_less_better = unit in ("ms", "MB")
    return Part(what, size, first, second, unit, first / second if is_less_better else second / first)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[dict[str, str]]:
    for key, name in CONDITIONS.items():
        if None not in (before[key], now[key]) and before[key] != now[key]:
            yield {"what": name, "before": _condition(before[key]), "now": _condition(now[key])}


def _condition(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if "name" in value:
        return f"{value['name']}, {value.get('cores')} cores"
    return ", ".join(f"{name} {version}" for name, version in value.items())
