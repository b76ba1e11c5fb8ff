"""All checks of a device, in their order, as a report to paste into an issue."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator

from .. import __version__
from ..device import GPU, NPU
from ..terminal.style import Style
from ..terminal.visible import visible, visible_json
from . import ascend, machine
from .check import FAILED, OK, SKIPPED, WARNING, Check, Diagnosis
from .processes import CheckProcesses
from .report import COLORS, check_lines
from .worker import NEEDED, PARTS, RUNS

# Largest error of a loss, relative to the CPU's loss in float32.
LOSS_TOLERANCES = {"float32": 1e-3, "bfloat16 O2": 5e-2, "float16 O2": 5e-2}


def examine(device: str, *, is_tried: bool = True, is_json: bool = False) -> int:
    """Check a device, print each check as soon as it is done, and return 1 if one failed.

    device: "npu", "gpu", "cpu" or another kind, with or without ":N". is_tried: train and chat too.
    """
    diagnosis, style = Diagnosis(), Style(sys.stdout)
    if not is_json:
        print(visible(f"paddlemix {__version__} doctor --device {device}\n"), flush=True)
    for check in checks_of(diagnosis, device, is_tried):
        if not is_json:
            _show_progress("")
            print("\n".join(check_lines(check, style)), flush=True)
    if is_json:
        print(visible_json({"paddlemix": __version__, "device": device, **diagnosis.as_dict()}))
    else:
        text, status = _verdict(diagnosis, device)
        print(f"\n{style.paint(text, COLORS[status])}")
    return int(diagnosis.has_failed)


def checks_of(diagnosis: Diagnosis, device: str, is_tried: bool) -> Iterator[Check]:
    """Yield the checks as they are done, and add them to a diagnosis."""
    kind = device.partition(":")[0]
    for name, function in _first_checks(kind):
        with diagnosis.check(name) as check:
            function(check)
        yield check
    processes = CheckProcesses(device, report_part=_show_progress)
    parts = [part for part in PARTS if part not in RUNS]
    for check in itertools.chain(processes.run(parts), _runs(processes, diagnosis, kind, is_tried)):
        diagnosis.checks.append(check)
        yield check


def _first_checks(kind: str):
    """Return the checks that need no paddle, by name."""
    checks = [("machine", machine.check_machine)]
    if kind == NPU:
        checks += [("driver", ascend.check_driver), ("CANN", ascend.check_cann)]
    if kind == GPU:
        checks += [("driver", machine.check_nvidia)]
    return [*checks, ("packages", lambda check: machine.check_packages(check, kind))]


def _runs(processes: CheckProcesses, diagnosis: Diagnosis, kind: str, is_tried: bool) -> Iterator[Check]:
    """Train and chat on the device, and on the CPU to compare, there in a process without a plugin."""
    failed = [name for name in diagnosis.names(FAILED) if name in NEEDED]
    if failed or not is_tried:
        reason = f"needs {failed[0]}, which failed" if failed else "not asked for"
        yield from (Check(name, SKIPPED, [reason]) for name in RUNS)
        return
    expected = {}
    if kind != "cpu":
        preload = {name: value for name, value in processes.variables.items() if name == "LD_PRELOAD"}
        on_cpu = CheckProcesses("cpu", preload, report_part=_show_progress)
        expected = {check.name: check for check in on_cpu.run(RUNS)}
    for check in processes.run(RUNS):
        if check.name in expected:
            compare(check, expected[check.name])
        yield check


def compare(check: Check, on_cpu: Check) -> None:
    """Compare losses or answers with those of the CPU in float32. on_cpu: the same check on the CPU."""
    wanted = on_cpu.values.get("float32")
    if not wanted:
        check.warn(f"not compared, since the CPU failed: {(on_cpu.facts or ['without a message'])[0]}")
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
            numbers = " ".join(f"{loss:.4f}" for loss in wanted)
            failure = f"{text}, which are {numbers}" if math.isfinite(error) else f"{dtype}: losses are not finite"
            advice = "look at the operations above; PADDLEMIX_PLAIN_OPS=1 leaves out the device's own kernels"
            check.fail(failure, advice)


def _compare_answers(check: Check, wanted: dict[str, str]) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        answers = check.values.get(dtype)
        if not answers:
            continue
        other = [question for question in wanted if answers.get(question) != wanted[question]]
        if not other:
            check.say(f"{dtype}: the same answers as the CPU's in float32")
        else:
            add = check.fail if dtype == "float32" else check.warn
            add(f"{dtype}: {other[0]!r} gives {answers.get(other[0])!r}, on the CPU {wanted[other[0]]!r}")


def _verdict(diagnosis: Diagnosis, device: str) -> tuple[str, str]:
    """Return the last line, and the status whose color it has."""
    device = visible(device)
    failed, warned = diagnosis.names(FAILED), diagnosis.names(WARNING)
    if failed:
        text = f"{device}: {len(failed)} failed ({', '.join(failed)}); start with the first"
        return f"{text}. To ask for help, paste all of this into an issue", FAILED
    if warned:
        return f"{device} works; {len(warned)} with warnings ({', '.join(warned)})", WARNING
    return f"{device} works", OK


def _show_progress(part: str) -> None:
    """Show the current part on a terminal, "" for none: the first run of a kernel may take minutes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{f'  ...      {visible(part)}' if part else ''}", end="", file=sys.stderr, flush=True)
