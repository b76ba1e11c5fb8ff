"""How much memory the machine or the container has left, so that a busy server refuses requests rather than dies."""

from __future__ import annotations

import time
from pathlib import Path

CHECK_SECONDS = 1.0  # between two looks
CGROUP2 = ("memory.max", "memory.current", "inactive_file")
CGROUP1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


class MemoryGauge:
    """Free memory in bytes, looked up at most once a second. root: of the file system."""

    def __init__(self, root: Path = Path("/")):
        self.root = root
        self._checked = float("-inf")
        self._free: int | None = None

    def free(self) -> int | None:
        """Return the free bytes; None where the system does not tell."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked, self._free = now, free_memory(self.root)
        return self._free


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that may still be used: of the machine, and below the limits of this process's control groups.

    Files that the system can drop from its cache count as free.
    """
    machine = _kibibytes(root / "proc/meminfo").get("MemAvailable")
    values = [_free_in(folder, names) for folder, names in _groups(root)]
    return min([value for value in (machine, *values) if value is not None], default=None)


def _groups(root: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return the folders of the control groups, with the names of limit, use and droppable files in them.

    In a container the process's own group is the root of the mounted tree, whatever /proc says.
    """
    mounts = {"": ("sys/fs/cgroup", CGROUP2), "memory": ("sys/fs/cgroup/memory", CGROUP1)}
    found = [(root / folder, names) for folder, names in mounts.values()]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in mounts and path != "/":
                folder, names = mounts[controller]
                found.append((root / folder / path.lstrip("/"), names))
    return found


def _free_in(folder: Path, names: tuple[str, str, str]) -> int | None:
    limit_name, used_name, droppable_name = names
    limit, used = _lines(folder / limit_name), _lines(folder / used_name)
    if not limit or not used or not limit[0].isdecimal():  # "max"
        return None
    words = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat"))
    return int(limit[0]) - int(used[0]) + int(words.get(droppable_name, 0))


def _kibibytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in _lines(path) if line.endswith("kB"))
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
