"""Print a diagnosis for a person or for a program."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator

from ..terminal.sizes import in_memory
from ..terminal.style import Style
from ..terminal.visible import visible, visible_json
from .check import FAILED, OK, SKIPPED, WARNING, Check, Diagnosis

COLORS = {OK: "ok", WARNING: "warning", FAILED: "error", SKIPPED: "note"}  # kinds of terminal.style
STATUS_WIDTH, NAME_WIDTH = 9, 10
INDENT = 2 + STATUS_WIDTH + NAME_WIDTH
MIN_WIDTH, MAX_WIDTH = 80, 120  # of the lines; wider ones are hard to read
# Components of an estimate, in the order of the table.
COMPONENTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "context": "driver and kernels (about)",
    "total": "total",
    "on_host": "on the host (offloaded)",
}
OPTIONAL = ("context", "on_host")  # left out where they are 0
OTHERWISE = {"activations_without": "without recompute", "activations_with_recompute": "with recompute"}


def show(diagnosis: Diagnosis, *, is_json: bool) -> None:
    """Print a run's diagnosis to standard output."""
    if is_json:
        print(visible_json(diagnosis.as_dict()))
    else:
        print(as_text(diagnosis, Style(sys.stdout)))


def as_text(diagnosis: Diagnosis, style: Style) -> str:
    """Return the lines of each check, with its advice under it, and the verdict."""
    lines = [line for check in diagnosis.checks for line in check_lines(check, style)]
    return "\n".join([*lines, "", _verdict(diagnosis, style)])


def check_lines(check: Check, style: Style) -> Iterator[str]:
    """Yield the lines of one check: status and name, then facts and advice."""
    status = style.paint(f"{check.status:<{STATUS_WIDTH}}", COLORS[check.status])
    first = f"  {status}{check.name:<{NAME_WIDTH}}"
    for fact in [*check.facts, *(f"-> {one}" for one in check.advice)]:
        for line in _wrapped(visible(fact)):
            yield first + line
            first = " " * INDENT
    yield from _table(check.values.get("estimate"))


def _wrapped(text: str) -> Iterator[str]:
    """Yield a text in lines that fit; its own lines stay apart, as the places where a model was looked for.

    Indented lines with commands stay whole, so that they can be copied.
    """
    width = line_width() - INDENT
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        if indent and "pip install" in line:
            yield line
            continue
        wrap = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        yield from wrap.wrap(line) or [""]


def line_width() -> int:
    """Return the places of a line of the report: those of the terminal within limits, the fewest without one."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else MIN_WIDTH
    return min(max(columns, MIN_WIDTH), MAX_WIDTH)


def _table(components: dict[str, int] | None) -> Iterator[str]:
    if components is None:
        return
    for key, title in COMPONENTS.items():
        if components[key] or key not in OPTIONAL:
            yield f"{' ' * INDENT}  {title:<28}{in_memory(components[key]):>12}"
        if key == "activations":
            others = {text: components[name] for name, text in OTHERWISE.items() if name in components}
            yield from (f"{' ' * INDENT}    {text:<26}{in_memory(size):>12}" for text, size in others.items())


def _verdict(diagnosis: Diagnosis, style: Style) -> str:
    failed, warned = diagnosis.names(FAILED), diagnosis.names(WARNING)
    if failed:
        return style.paint(f"{len(failed)} failed ({', '.join(failed)}): training would stop", COLORS[FAILED])
    if diagnosis.plan:
        more = f", {len(warned)} with warnings" if warned else ""
        return style.paint(f"planned for {diagnosis.plan}: nothing failed{more}; check again there", COLORS[OK])
    if warned:
        return style.paint(f"nothing failed, {len(warned)} with warnings", COLORS[WARNING])
    return style.paint("ready to train", COLORS[OK])
