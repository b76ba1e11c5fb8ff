"""Format counts, numbers of bytes and times for messages."""

from __future__ import annotations

DISK = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))  # units of file managers and hubs
MEMORY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))  # units of the drivers of cards


def in_bytes(number: int, units: tuple[tuple[int, str], ...] = DISK) -> str:
    """Return a number of bytes in the largest unit that fits at least once: "1.5 GB", "12.0 kB", "7 B"."""
    for unit, name in units:
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number} B"


def in_memory(number: int) -> str:
    """Return a number of bytes of memory in units of 1024."""
    return in_bytes(number, MEMORY)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun: "1 item", "1,200 items". nouns: a plural that does not only add an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def in_time(seconds: float) -> str:
    """Return a time: "12 s", "3 min 5 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s" if seconds >= 10 else f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
