"""Predict how the operations of a step would run on an Ascend card, from paddle's log on the simulated device.

With SIM_NPU_FALLBACK_ONLY=1 and GLOG_v=3 paddle logs a line for each operation that has no kernel on the device, which
is nearly every one. The table of the real backend's kernels says which of them a card has. With SIM_NPU_LOG_COPIES=1
the plugin logs a line for each copy to the card; one that follows such an operation belongs to it.
"""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "plugin" / "npu_table.h"
LOGGING = {"SIM_NPU_FALLBACK_ONLY": "1", "SIM_NPU_LOG_COPIES": "1", "GLOG_v": "3"}
CALLED = re.compile(r"missing npu kernel: (\w+), expected_kernel_key:\(npu, [^,]*, (?:::phi::dtype::)?([\w<>]+)")
CUSTOM = re.compile(r"^== custom (\w+) (\w+)$", re.MULTILINE)
MARK = re.compile(r"^== (begin|end) (.+)$", re.MULTILINE)
NATIVE, FALLBACK, MISSING = "native", "CPU fallback", "missing"
NAMES = {"float32": "float", "float64": "double", "int32": "int"}  # names in the table
KEYS = {"float32": "cpu32", "float16": "cpu16", "bfloat16": "cpub"}  # fields in the dump of paddle's kernels


@dataclass(frozen=True)
class Operation:
    """Calls of one operation with one dtype. kind: NATIVE, FALLBACK or MISSING."""

    name: str
    dtype: str
    count: int
    kind: str


def sections(log: str) -> dict[str, str]:
    """Return the text between `== begin NAME` and `== end NAME` lines."""
    found, begun = {}, {}
    for mark in MARK.finditer(log):
        if mark.group(1) == "begin":
            begun[mark.group(2)] = mark.end()
        else:
            found[mark.group(2)] = log[begun[mark.group(2)] : mark.start()]
    return found


def operations(section: str, dump: str) -> list[Operation]:
    """Return the operations of a section, sorted by name. dump: the content of the SIM_NPU_DUMP file."""
    table, on_cpu = _table(), _dumped(dump)
    counted = collections.Counter(CALLED.findall(section))
    found = [
        Operation(name, dtype, number, _kind(name, dtype, table, on_cpu)) for (name, dtype), number in counted.items()
    ]
    customs = collections.Counter(CUSTOM.findall(section))
    found += [Operation(name, dtype, number, NATIVE) for (name, dtype), number in customs.items()]
    return sorted(found, key=lambda one: (one.name, one.dtype))


def sent(section: str) -> list[int]:
    """Return the bytes of each copy to the card that does not belong to a CPU fallback."""
    sizes, is_of_fallback = [], False
    for line in section.splitlines():
        if line.startswith("[sim_npu] copy h2d "):
            sizes += [] if is_of_fallback else [int(line.split()[-1])]
            is_of_fallback = False
        elif line.startswith("I") and "] TensorCopy " not in line:  # paddle 3.0 logs that before each copy
            is_of_fallback = "src_place Place(cpu) dst_place: Place(npu" in line
    return sizes


def _kind(name: str, dtype: str, table: dict[str, set[str]], on_cpu: dict[str, dict[str, str]]) -> str:
    if NAMES.get(dtype, dtype) in table.get(name, ()):
        return NATIVE
    has_none = dtype in KEYS and on_cpu.get(name, {}).get(KEYS[dtype]) == "0"
    return MISSING if has_none else FALLBACK


def _table() -> dict[str, set[str]]:
    """Return the dtypes of each operation in the real backend."""
    rows = re.findall(r'\{"(\w+)", \d, \d, "([^"]*)"\}', TABLE.read_text(encoding="utf-8"))
    return {name: set(dtypes.split(",")) for name, dtypes in rows}


def _dumped(dump: str) -> dict[str, dict[str, str]]:
    return {
        line.split()[0]: dict(field.split("=", 1) for field in line.split()[1:]) for line in dump.splitlines() if line
    }
