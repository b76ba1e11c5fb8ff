"""Count rows: read, written, dropped and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..terminal.sizes import plural
from .row import Made, Note, Problem

MAX_NAMED = 3  # problems of each reason that are named
MAX_REASONS = 50  # reasons and notes; more are counted together
OTHER = "other reasons"


@dataclass
class Summary:
    """The counts of one output. dropped, notes: by reason. examples: the first problems of each reason.

    num_read: what was written or dropped, or gave no row. A raw row that holds several counts once for each.
    """

    num_read: int = 0
    num_written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, made: Made) -> None:
        """Count a row that is written, a problem or a note."""
        if isinstance(made, Problem):
            reason = limited(made.reason, self.dropped)
            self.dropped[reason] += 1
            named = self.examples.setdefault(reason, [])
            if len(named) < MAX_NAMED:
                named.append(str(made))
        elif isinstance(made, Note):
            self.notes[limited(made.text, self.notes)] += 1
        else:
            self.num_written += 1

    def lines(self) -> list[str]:
        """Return the counts as text."""
        num_dropped = sum(self.dropped.values())
        num_rest = self.num_read - self.num_written - num_dropped
        rest = f", {num_rest:,} not taken" if num_rest else ""
        found = [f"{plural(self.num_read, 'row')} read, {self.num_written:,} written, {num_dropped:,} dropped{rest}"]
        for reason, count in self.dropped.most_common():
            found.append(f"  dropped {count:,}: {reason}")
            found += [f"    {one}" for one in self.examples[reason]]
        return found + [f"  {count:,}: {text}" for text, count in self.notes.most_common()]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for a JSON file."""
        counts = {"read": self.num_read, "written": self.num_written}
        return {**counts, "dropped": self.dropped, "notes": self.notes, "examples": self.examples}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Summary:
        """Return the counts that `as_dict` gave. Raises KeyError or TypeError for anything else."""
        counts = Counter(value["dropped"]), Counter(value["notes"])
        return cls(value["read"], value["written"], *counts, dict(value["examples"]))


def limited(reason: str, known: Counter[str]) -> str:
    """Return the reason to count under: itself, or one for all that are left."""
    return reason if reason in known or len(known) < MAX_REASONS else OTHER
