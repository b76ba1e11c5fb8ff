"""The doctor of a machine: all checks of a device in their order, and the report to paste into an issue."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator

from .. import __version__
from ..terminal.visible import visible, visible_json
from . import ascend, host
from .check import FAILED, OK, SKIPPED, WARNING, Check, Diagnosis
from .processes import PATIENCE, Crew
from .report import check_lines, paint
from .worker import PARTS, RUNS

# Largest difference of a loss from the CPU's in float32, as a part of it.
LOSS_TOLERANCES = {"float32": 1e-3, "bfloat16 O2": 5e-2, "float16 O2": 5e-2}


def examine(device: str, *, is_tried: bool = True, is_json: bool = False, patience: float = PATIENCE) -> int:
    """Check a device, print each check as soon as it is done, and return 1 if one failed.

    device: "npu", "gpu", "cpu" or another kind, with or without ":N". is_tried: train and chat too.
    """
    diagnosis, has_colour = Diagnosis(), sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if not is_json:
        print(visible(f"paddlemix {__version__} doctor --device {device}\n"), flush=True)
    for check in checks_of(diagnosis, device, is_tried, patience):
        if not is_json:
            _show_progress("")
            print("\n".join(check_lines(check, has_colour)), flush=True)
    if is_json:
        print(visible_json({"paddlemix": __version__, "device": device, **diagnosis.as_dict()}))
    else:
        print(f"\n{paint(*_verdict(diagnosis, device), has_colour)}")
    return int(diagnosis.has_failed)


def checks_of(diagnosis: Diagnosis, device: str, is_tried: bool, patience: float = PATIENCE) -> Iterator[Check]:
    """Yield the checks as they are done, and add them to a diagnosis."""
    kind = device.partition(":")[0]
    for name, look in _looks(kind):
        with diagnosis.check(name) as check:
            look(check)
        yield check
    crew = Crew(device, patience=patience, tell=_show_progress)
    parts = [part for part in PARTS if part not in RUNS]
    for check in crew.work(parts):
        diagnosis.checks.append(check)
        yield check
    for check in _runs(crew, diagnosis, kind, is_tried):
        diagnosis.checks.append(check)
        yield check


def _looks(kind: str):
    """Return the checks that need no paddle, by name."""
    looks = [("machine", host.check_machine)]
    if kind == "npu":
        looks += [("driver", ascend.check_driver), ("CANN", ascend.check_cann)]
    if kind == "gpu":
        looks += [("driver", host.check_nvidia)]
    return [*looks, ("packages", lambda check: host.check_packages(check, kind))]


def _runs(crew: Crew, diagnosis: Diagnosis, kind: str, is_tried: bool) -> Iterator[Check]:
    """Train and chat on the device, and on the CPU to compare; the latter in a process that has no plugin."""
    failed = [one.name for one in diagnosis.checks if one.status == FAILED and one.name in ("paddle", "device")]
    if failed or not is_tried:
        why = f"needs {failed[0]}, which failed" if failed else "not asked for"
        yield from (Check(name, SKIPPED, [why]) for name in RUNS)
        return
    expected = {}
    if kind != "cpu":
        preload = {name: value for name, value in crew.variables.items() if name == "LD_PRELOAD"}
        expected = {check.name: check for check in Crew("cpu", preload, crew.patience, crew.tell).work(RUNS)}
    for check in crew.work(RUNS):
        if check.name in expected:
            compare(check, expected[check.name])
        yield check


def compare(check: Check, on_cpu: Check) -> None:
    """Set losses or answers beside those of the CPU in float32, which the other check has."""
    wanted = on_cpu.values.get("float32")
    if not wanted:
        check.warn(f"not compared, since the CPU failed: {(on_cpu.facts or ['it said nothing'])[0]}")
        return
    check.values["on the CPU"] = wanted
    if check.name == "chat":
        _compare_answers(check, wanted)
        return
    for dtype, tolerance in LOSS_TOLERANCES.items():
        losses = check.values.get(dtype)
        if not losses or len(losses) != len(wanted):
            continue
        error = max(abs(one - other) / abs(other) for one, other in zip(losses, wanted, strict=True))
        text = f"{dtype}: losses off by {error:.0e} from the CPU's in float32"
        if error <= tolerance:
            check.say(text)
        else:
            told = " ".join(f"{loss:.4f}" for loss in wanted)
            off = f"{text}, which are {told}" if math.isfinite(error) else f"{dtype}: losses are no numbers"
            check.fail(off, "look at the operations above; PADDLEMIX_PLAIN_OPS=1 leaves out the device's own kernels")


def _compare_answers(check: Check, wanted: dict[str, str]) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        answers = check.values.get(dtype)
        if not answers:
            continue
        other = [question for question in wanted if answers.get(question) != wanted[question]]
        if not other:
            check.say(f"{dtype}: the same answers as the CPU's in float32")
        else:
            tell = check.fail if dtype == "float32" else check.warn
            tell(f"{dtype}: {other[0]!r} gives {answers.get(other[0])!r}, on the CPU {wanted[other[0]]!r}")


def _verdict(diagnosis: Diagnosis, device: str) -> tuple[str, str]:
    """Return the last line and the status whose colour it has."""
    device = visible(device)
    names = {status: [one.name for one in diagnosis.checks if one.status == status] for status in (FAILED, WARNING)}
    if names[FAILED]:
        text = f"{device}: {len(names[FAILED])} failed ({', '.join(names[FAILED])}); start with the first"
        return f"{text}. To ask for help, paste all of this into an issue", FAILED
    if names[WARNING]:
        return f"{device} works; {len(names[WARNING])} with warnings ({', '.join(names[WARNING])})", WARNING
    return f"{device} works", OK


def _show_progress(part: str) -> None:
    """Say on a terminal what is being done, "" for nothing: the first run of a kernel may take minutes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{f'  ...      {visible(part)}' if part else ''}", end="", file=sys.stderr, flush=True)
