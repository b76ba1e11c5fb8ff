"""Free memory is that of the machine or below the limit of a control group, whichever is less."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.serve.workers import free_memory as room
from paddlemix.serve.workers.free_memory import MemoryGauge, free_memory

MB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


MACHINE = {"proc/meminfo": "MemTotal:       8192 kB\nMemAvailable:    4096 kB\nHugePages_Total:       0\n"}


def group2(folder: str, limit: str, used: int, droppable: int) -> dict[str, str]:
    names = {"memory.max": limit, "memory.current": str(used), "memory.stat": f"anon 5\ninactive_file {droppable}"}
    return {f"sys/fs/cgroup{folder}/{name}": f"{text}\n" for name, text in names.items()}


def group1(folder: str, limit: int, used: int, droppable: int) -> dict[str, str]:
    start = f"sys/fs/cgroup/memory{folder}/memory"
    return {
        f"{start}.limit_in_bytes": f"{limit}\n",
        f"{start}.usage_in_bytes": f"{used}\n",
        f"{start}.stat": f"cache 1\ntotal_inactive_file {droppable}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 4 * MB),
        (MACHINE | group2("", "max", MB, 0), 4 * MB),
        (MACHINE | group2("", str(3 * MB), 2 * MB, MB // 2), 3 * MB // 2),
        (MACHINE | group2("", str(300 * MB), 2 * MB, 0), 4 * MB),
        (MACHINE | {"proc/self/cgroup": "0::/a/b\n"} | group2("/a/b", str(3 * MB), MB, 0), 2 * MB),
        (MACHINE | group1("", 9223372036854771712, MB, 0), 4 * MB),
        (MACHINE | group1("", 3 * MB, MB, 0), 2 * MB),
        (MACHINE | {"proc/self/cgroup": "9:cpu,memory:/x\n1:name=systemd:/y\n"} | group1("/x", 3 * MB, 2 * MB, 0), MB),
        ({}, None),
    ],
)
def test_the_least_of_machine_and_groups_counts(tmp_path, files, expected):
    assert free_memory(write(tmp_path, files)) == expected


def test_gauge_looks_once_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    gauge = MemoryGauge(write(tmp_path, MACHINE))
    assert gauge.free() == 4 * MB
    write(tmp_path, {"proc/meminfo": "MemAvailable: 1024 kB\n"})
    now[0] += 0.9
    assert gauge.free() == 4 * MB
    now[0] += 0.2
    assert gauge.free() == MB


def test_this_machine_tells():
    free = free_memory()
    assert free is None or free > 0
