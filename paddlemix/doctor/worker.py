"""The process that touches the device: `worker DEVICE RESULTS PART ...` does the parts and writes a line for each.

RESULTS gets lines of JSON: {"begin": part}, then {"check": {...}}. A part that fails does not end the process, but a
device that no longer computes does: whoever started it starts another one for the parts that are left.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from . import basics
from .check import FAILED, Check, Diagnosis
from .error_text import library_to_preload, of_error

NEEDED = ("paddle", "device")  # without these there is nothing more to try
KERNELS = ("dense", "masked", "packed", "rms norm", "rotary", "swiglu")
RUNS = ("training", "chat")
PARTS = (*NEEDED, "dtypes", *KERNELS, "speed", *RUNS)


def function_of(part: str) -> Callable[[Check, str], None]:
    """Return what does a part; imports come here, because paddle is imported by a part of its own."""
    if part in KERNELS:
        from .operations import check_operation

        return lambda check, device: check_operation(check, part, device)
    if part == "speed":
        from .speeds import check_speed

        return check_speed
    if part in ("training", "chat"):
        from . import tiny_runs

        return tiny_runs.check_training if part == "training" else tiny_runs.check_chat
    return {"paddle": basics.check_paddle, "device": basics.check_device, "dtypes": basics.check_dtypes}[part]


def do_part(part: str, device: str) -> Check:
    """Return what a part found; whatever is raised is its failure."""
    diagnosis = Diagnosis()
    with diagnosis.check(part, is_notice_warned=part in KERNELS) as check:
        try:
            function_of(part)(check, device)
        except Exception as error:  # a report must not end where something is broken
            check.fail(of_error(error))
            check.values["preload"] = library_to_preload(str(error))
    return check


def main(argv: list[str]) -> int:
    """Do the parts; return 0, also where some of them failed."""
    device, results, *parts = argv
    with Path(results).open("a", encoding="utf-8") as file:

        def tell(line: dict) -> None:
            print(json.dumps(line), file=file, flush=True)

        for part in NEEDED if parts[0] not in NEEDED else ():
            do_part(part, device)  # told by an earlier process
        for part in parts:
            tell({"begin": part})
            print(f"== {part}", flush=True)
            check = do_part(part, device)
            tell({"check": dataclasses.asdict(check)})
            if check.status == FAILED and (part in NEEDED or not basics.is_healthy(device)):
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
