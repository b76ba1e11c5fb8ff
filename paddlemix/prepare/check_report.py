"""What a check of rows has found: counts by reason, the first rows of each, and what training changes in good rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.encode import hint_for
from ..data.measure import MISSING
from ..data.readers.files import known_formats
from ..data.row_note import SKIPPED
from ..terminal.sizes import plural
from .summary import MAX_NAMED, limited

UNKNOWN = "unknown_format"


@dataclass
class Tally:
    """The counts of all files.

    kinds: of bad rows. named: the first ones of each kind. notices: what training changes in good rows or does not use.
    hint: where the first missing image may be.
    """

    num_rows: int = 0
    num_images: int = 0
    num_unopened: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    notices: Counter[str] = field(default_factory=Counter)
    hint: str = ""

    @property
    def num_bad(self) -> int:
        return self.kinds.total()

    @property
    def num_good(self) -> int:
        return self.num_rows - self.num_bad

    def add(self, where: str, verdict: dict[str, Any], folders: Sequence[str]) -> None:
        """Count a row, whose images were looked up in folders."""
        self.num_rows += 1
        self.num_images += verdict.get("num_images", 0)
        self.num_unopened += verdict.get("num_unopened", 0)
        self.notices.update(limited(one, self.notices) for one in verdict.get("notices", ()))
        if "kind" in verdict:
            if verdict["kind"] == MISSING and MISSING not in self.kinds:  # one search: there may be a million
                self.hint = hint_for(verdict["image"], folders).lstrip("; ")
            self.kinds[verdict["kind"]] += 1
            named = self.named.setdefault(verdict["kind"], [])
            if len(named) < MAX_NAMED:
                named.append(f"{where}: {verdict['reason']}")

    def lines(self) -> list[str]:
        """Return the counts as text."""
        images = f"{plural(self.num_images, 'image')} looked at"
        text = [f"{plural(self.num_rows, 'row')}: {self.num_good:,} good, {self.num_bad:,} bad; {images}"]
        if self.num_unopened:
            text.append(f"  not opened: {plural(self.num_unopened, 'image')}")
        for kind, number in self.kinds.most_common():
            text += [f"  {number:,}: {SKIPPED[kind]}", *(f"    {one}" for one in self.named[kind])]
            text += [f"    hint for the first of them: {self.hint}"] if kind == MISSING and self.hint else []
            text += ["    known formats:", *(f"      {one}" for one in known_formats())] if kind == UNKNOWN else []
        if self.notices:
            text += ["in good rows, training changes or does not use:"]
            text += [f"  {number:,}: {notice}" for notice, number in self.notices.most_common()]
        return text
