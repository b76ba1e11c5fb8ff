"""Count the rows that were skipped or cut, each once, over all processes, and keep the file of skipped rows.

Loader workers and processes read rows independently. Their notes travel with the batches and are combined here, by
every process at the same time. So only one process writes the file, and all stop together when too many rows are bad.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import paddle

from ..data.bad_rows import BadRowPolicy
from ..data.row_note import CUT, SKIPPED, RowNote, count_kinds, in_words, kind_of
from ..foreign_json import TEXT, Kind, check_values, one_of, whole_number
from ..terminal.log import notice
from ..terminal.sizes import plural
from .processes import gather

FILE = "bad_samples.jsonl"
CHECKPOINT_FILE = "row_notes.jsonl"  # in a checkpoint: the skipped and the cut rows up to its step

NUMBER = whole_number(0, 1 << 40)
NOTE_KINDS: dict[str, Kind] = {
    "split": TEXT,
    "file": Kind(lambda value: isinstance(value, str), "a path"),
    "row": NUMBER,
    "line": NUMBER.or_null(),
    "kind": one_of((*SKIPPED, CUT)),
    "reason": Kind(lambda value: isinstance(value, str), "a text"),
    "dropped_turns": NUMBER,
}


class RowTally:
    """The notes on a run's rows. folder: for bad_samples.jsonl, which one process of a run writes (is_writer)."""

    def __init__(self, folder: str | Path, policy: BadRowPolicy, *, num_processes: int = 1, is_writer: bool = True):
        self.folder = Path(folder)
        self.policy = policy
        self.num_processes = num_processes
        self.is_writer = is_writer
        self._has_begun = False
        self._num_rows: dict[str, int] = {}
        self._pending: list[RowNote] = []
        self._seen: dict[tuple, RowNote] = {}
        self._skipped: dict[str, list[RowNote]] = defaultdict(list)  # by split
        self._cut: dict[str, list[RowNote]] = defaultdict(list)
        self._num_written: dict[str, int] = defaultdict(int)
        self._has_news = False

    @property
    def file(self) -> Path:
        """The file of skipped rows."""
        return self.folder / FILE

    def expect(self, split: str, num_rows: int, left_out: Sequence[RowNote]) -> None:
        """Set the number of a split's rows, bad ones included, and add the notes on those left out of its files."""
        self._num_rows[split] = num_rows
        self._pending += left_out

    def add(self, notes: Iterable[RowNote]) -> None:
        """Add the notes of a batch, to be counted by the next `count`."""
        self._pending += notes

    def begin(self, checkpoint: str | Path | None = None, *, is_fresh: bool) -> None:
        """Count from zero, or on from a checkpoint and the file of an earlier run; only the first call does anything.

        All processes must call it.
        """
        if self._has_begun:
            return
        self._has_begun = True
        self._begin_file(checkpoint, is_fresh)
        self.count(is_reported=True)

    def _begin_file(self, checkpoint: str | Path | None, is_fresh: bool) -> None:
        """Remove the file after reading it. It is written anew because a killed run may have left half a line."""
        if not self.is_writer:
            return
        self._pending += [] if checkpoint is None else read_notes(Path(checkpoint) / CHECKPOINT_FILE)
        self._pending += [] if is_fresh else read_notes(self.folder / FILE)
        (self.folder / FILE).unlink(missing_ok=True)

    def count(self, *, is_reported: bool) -> None:
        """Count the new notes of all processes, which must call it together, and write the skipped rows to the file.

        is_reported: print the counts if they changed. Raises TooManyBadRowsError in every process or in none.
        """
        news = [note for notes in gather_notes(self._pending, self.num_processes) for note in notes]
        self._pending = []
        has_new = [self._count(note) for note in news]
        if self.is_writer:
            self.write()
        if any(has_new):
            for split, num_rows in self._num_rows.items():
                self.policy.check(self._skipped[split], num_rows)
        text = self.news() if is_reported else None
        if text and self.is_writer:
            notice(text)

    def write(self) -> None:
        """Append to the file what is not in it yet, this process's pending notes included."""
        for note in self._pending:
            self._count(note)
        self._pending = []
        for split, notes in self._skipped.items():
            _append(self.folder / FILE, notes[self._num_written[split] :])
            self._num_written[split] = len(notes)

    def give_up(self, notes: Iterable[RowNote], *, is_fresh: bool) -> None:
        """Write the notes that end a run before its first step."""
        if self.is_writer:
            self._begin_file(None, is_fresh)
            self.add(notes)
            self.write()

    def save(self, checkpoint: Path) -> None:
        """Write all notes so far into a checkpoint."""
        (checkpoint / CHECKPOINT_FILE).unlink(missing_ok=True)
        _append(checkpoint / CHECKPOINT_FILE, list(self._seen.values()))

    def news(self) -> str | None:
        """Return the counts in one line, None if they have not changed since the last call."""
        if not self._has_news:
            return None
        self._has_news = False
        text = "; ".join(part for part in map(self._summary, self._num_rows) if part)
        has_skipped = any(self._skipped[split] for split in self._num_rows)
        return f"{text}; skipped rows are listed in {self.folder / FILE}" if has_skipped else text

    def metrics(self, split: str) -> dict[str, int]:
        """Return the counts of a split under the names of its metrics."""
        skipped, cut = self._skipped[split], self._cut[split]
        counts = {f"{split}_skipped_rows": len(skipped)}
        counts |= {f"{split}_skipped_{kind}": count for kind, count in count_kinds(skipped).items()}
        num_dropped = sum(note.num_dropped_turns for note in cut)
        return counts | {f"{split}_cut_rows": len(cut), f"{split}_dropped_turns": num_dropped}

    def _count(self, note: RowNote) -> bool:
        """Record a note unless its row has one already; return whether it is new."""
        if note.key in self._seen:
            return False
        self._seen[note.key] = note
        (self._skipped if note.is_skipped else self._cut)[note.split].append(note)
        self._has_news = True
        return True

    def _summary(self, split: str) -> str:
        skipped, cut = self._skipped[split], self._cut[split]
        parts = [f"{len(skipped):,} skipped ({in_words(count_kinds(skipped))})"] * bool(skipped)
        num_dropped = sum(note.num_dropped_turns for note in cut)
        parts += [f"{len(cut):,} cut to max_length ({plural(num_dropped, 'turn')} dropped)"] * bool(cut)
        return f"{split}: of {plural(self._num_rows[split], 'row')} {', '.join(parts)}" if parts else ""


def gather_notes(notes: list[RowNote], num_processes: int) -> list[list[RowNote]]:
    """Return the notes of every process in the order of the ranks; all processes must call it."""
    if num_processes <= 1:
        return [notes]
    counts: list = []  # mostly zeros: pickled objects are sent only if there are notes
    paddle.distributed.all_gather(counts, paddle.to_tensor([len(notes)], dtype="int64"))
    return gather(notes, num_processes) if any(int(count) for count in counts) else []


def _append(path: Path, notes: Sequence[RowNote]) -> None:
    if not notes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON allows half a surrogate pair and UTF-8 does not; it is written as JSON's escape.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(note.as_dict(), ensure_ascii=False) + "\n" for note in notes)


def read_notes(path: Path) -> list[RowNote]:
    """Return the notes of a file, none if there is no file; lines that are not whole notes are ignored."""
    if not path.is_file():
        return []
    notes = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            values = json.loads(line)
            values["kind"] = kind_of(values["kind"])
            fields = [values[key] for key in ("split", "file", "row", "line", "id", "kind")]
            check_values(values, NOTE_KINDS, str(path))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a killed run's last line, or not a line of this program
        notes.append(RowNote(*fields, values.get("reason", ""), values.get("dropped_turns", 0)))
    return notes
