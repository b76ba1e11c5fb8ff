"""Count what is in files of rows: rows by format, turns, lengths, images and where they come from."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from ...conversation.messages import Conversation
from ...data.readers.errors import BadRowError
from ...data.readers.files import format_of, read_row
from ...data.row_note import SKIPPED
from ...terminal.visible import visible, visible_json
from ..converter import Argument, Converter
from ..progress import Progress
from ..row import Placed, Problem
from ..row_images import folder_of
from ..training_rows import FILES, row_paths, rows_of

NUM_SOURCES = 12  # the most frequent ones are shown


@dataclass
class Counts:
    """What was counted. Lengths are in characters. bad: rows that training would skip, by reason."""

    num_rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    rows: Counter[int] = field(default_factory=Counter)
    distinct: set[bytes] = field(default_factory=set)  # of images: eight bytes each

    def add(self, value: dict[str, Any] | Problem) -> None:
        """Count a row."""
        self.num_rows += 1
        if isinstance(value, Problem):
            self.bad[value.reason] += 1
            return
        try:
            conversation = read_row(value)[0]
        except ValueError as error:
            self.bad[SKIPPED[error.kind if isinstance(error, BadRowError) else "wrong_row"]] += 1
            return
        self.formats[format_of(value)] += 1
        self._add_texts(conversation)
        self._add_images(conversation.images)

    def _add_texts(self, conversation: Conversation) -> None:
        total = 0
        for message in conversation.messages:
            length = sum(map(len, message.pieces))
            total += length
            if message.role != "system":
                (self.answers if message.role == "assistant" else self.questions)[length] += 1
        self.rows[total] += 1
        self.turns[sum(message.role == "assistant" for message in conversation.messages)] += 1

    def _add_images(self, images: Iterable[str]) -> None:
        names = list(images)
        self.images[len(names)] += 1
        for name in names:
            self.sources[folder_of(name)] += 1
            self.distinct.add(blake2b(name.encode(), digest_size=8).digest())

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        lengths = {"rows": self.rows, "questions": self.questions, "answers": self.answers}
        return {
            "rows": self.num_rows,
            "formats": dict(self.formats.most_common()),
            "bad_rows": dict(self.bad.most_common()),
            "turns": _total(self.turns),
            "turns_per_row": spread(self.turns),
            "characters": {name: spread(counts) for name, counts in lengths.items()},
            "images": _total(self.images),
            "distinct_images": len(self.distinct),
            "rows_by_number_of_images": {str(number): self.images[number] for number in sorted(self.images)},
            "sources": dict(self.sources.most_common(NUM_SOURCES)),
            "other_sources": max(0, len(self.sources) - NUM_SOURCES),
        }


def spread(counts: Counter[int]) -> dict[str, int] | None:
    """Return the least, the median, the 95th percentile and the largest of counted numbers, None without any.

    A percentile is the least number that is not smaller than that share of all (nearest rank).
    """
    total = counts.total()
    if not total:
        return None
    ranks = {"median": -(-total // 2), "p95": -(-total * 95 // 100)}
    found, seen = {}, 0
    for number in sorted(counts):
        seen += counts[number]
        for name, rank in ranks.items():
            if seen >= rank:
                found.setdefault(name, number)
    return {"min": min(counts), "median": found["median"], "p95": found["p95"], "max": max(counts)}


def _total(counts: Counter[int]) -> int:
    return sum(number * count for number, count in counts.items())


def count(rows: Iterable[Placed], title: str) -> Counts:
    """Return the counts of rows."""
    counts = Counts()
    with Progress(title) as progress:
        for row in rows:
            counts.add(row.value)
            progress.show(counts.num_rows, row.share)
    return counts


def lines(found: dict[str, Any]) -> list[str]:
    """Return the counts as text."""
    text = [f"rows               {found['rows']:,} ({_named(found['formats']) or 'none to train on'})"]
    if found["bad_rows"]:
        text.append(f"  bad              {_named(found['bad_rows'])}")
    text.append(f"turns              {found['turns']:,}, {_spread(found['turns_per_row'])} a row")
    for name, values in found["characters"].items():
        text.append(f"{'characters of ' + name if name == 'rows' else '  of ' + name:<19}{_spread(values)}")
    text.append(f"images             {found['images']:,}, {found['distinct_images']:,} different ones")
    for number, num_rows in found["rows_by_number_of_images"].items():
        text.append(f"  {number} in a row{'':<{max(0, 8 - len(number))}}{num_rows:,}")
    for name, num_images in found["sources"].items():
        text.append(f"  in {name}: {num_images:,}")
    if found["other_sources"]:
        text.append(f"  and {found['other_sources']:,} other folders")
    return text


def _named(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _spread(values: dict[str, int] | None) -> str:
    if values is None:
        return "none"
    return f"{values['min']:,} to {values['max']:,} (median {values['median']:,}, 95% up to {values['p95']:,})"


def command(arguments: argparse.Namespace) -> int:
    """Print the counts; return 1 if no row can be trained on."""
    paths = row_paths(arguments.files)
    found = count(rows_of(paths), paths[0].name).as_dict()
    print(visible_json(found) if arguments.json else visible("\n".join(lines(found))))
    return 0 if found["formats"] else 1


CONVERTER = Converter(
    name="stats",
    description="count rows, turns, lengths, images and their sources",
    files="any files of rows that training reads (a JSON list, or one JSON object a line)",
    example="stats all.jsonl",
    arguments=(FILES, Argument("--json", "print one JSON object instead of text", False, {"action": "store_true"})),
    command=command,
)
