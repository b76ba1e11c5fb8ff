"""Update the table of the real backend's kernels from its sources.

    python tests/npu_sim/update_table.py PaddleCustomDevice/backends/npu/kernels

Rows of operations that the sources register are replaced or added; other rows are kept. The plugin is rebuilt at its
next use.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TABLE = Path(__file__).parent / "plugin" / "npu_table.h"
REGISTERED = re.compile(r"PD_REGISTER_PLUGIN_KERNEL\(\s*(\w+)\s*,\s*npu\s*,\s*\w+\s*,([^{;]*)\)\s*\{")
ROW = re.compile(r'  \{"(\w+)", \d, \d, "([^"]*)"\},\n')
TYPES = {"int64_t": "int64", "int32_t": "int", "int16_t": "int16", "int8_t": "int8", "uint8_t": "uint8"}


def registered(source: str) -> dict[str, list[str]]:
    """Return the dtypes of each operation that a C++ source registers for the card, under the table's names."""
    found = {}
    for name, rest in REGISTERED.findall(re.sub(r"//[^\n]*", "", source)):
        # The first item is the kernel; its template arguments may contain commas.
        words = [word.strip() for word in re.sub(r"<[^<>]*Context[^<>]*>", "", rest).split(",")[1:]]
        plain = [re.sub(r"^(::)?(phi::)?(dtype::)?", "", word) for word in words]
        found[name] = [TYPES.get(word, word) for word in plain if word]
    return found


def updated(table: str, found: dict[str, list[str]]) -> str:
    """Return the table with these rows replaced or added, sorted by name."""
    rows = {name: dtypes.split(",") for name, dtypes in ROW.findall(table)} | found
    lines = [
        f'  {{"{name}", {int("float16" in dtypes)}, {int("bfloat16" in dtypes)}, "{",".join(dtypes)}"}},\n'
        for name, dtypes in sorted(rows.items())
    ]
    matches = list(ROW.finditer(table))
    return table[: matches[0].start()] + "".join(lines) + table[matches[-1].end() :]


def main() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(Path(sys.argv[1]).rglob("*.cc")):
        found |= registered(path.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise SystemExit(f"{sys.argv[1]} has no source that registers a kernel for npu")
    table = TABLE.read_text(encoding="utf-8")
    TABLE.write_text(updated(table, found), encoding="utf-8")
    known = {name: set(dtypes.split(",")) for name, dtypes in ROW.findall(table)}
    changed = sorted(name for name, dtypes in found.items() if known.get(name) != set(dtypes))
    print(f"{len(found)} operations read, {len(changed)} rows changed: {', '.join(changed)}")


if __name__ == "__main__":
    main()
