"""Counts the rows that were skipped or cut, each once, over all processes, and keeps the file of skipped rows.

Loader workers and processes meet rows on their own; what they met travels with the batches and is put together here,
where every process does the same at the same time. So one process writes, no line is lost or mixed with another, and
all of them stop together when too many rows are bad.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import paddle

from ..data.bad_rows import BadRowPolicy
from ..data.row_note import CUT, SKIPPED, RowNote, count_kinds, in_words
from ..foreign_json import TEXT, Kind, check_values, one_of, whole_number

FILE = "bad_samples.jsonl"
CHECKPOINT_FILE = "row_notes.jsonl"  # what a checkpoint knows: the skipped and the cut rows up to its step

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
    """The notes of a run. folder: where bad_samples.jsonl is written."""

    def __init__(self, folder: str | Path, policy: BadRowPolicy):
        self.folder = Path(folder)
        self.policy = policy
        self._num_rows: dict[str, int] = {}
        self._pending: list[RowNote] = []
        self._seen: dict[tuple, RowNote] = {}
        self._skipped: dict[str, list[RowNote]] = defaultdict(list)  # by split
        self._cut: dict[str, list[RowNote]] = defaultdict(list)
        self._num_written: dict[str, int] = defaultdict(int)
        self._has_news = False

    def expect(self, split: str, num_rows: int, left_out: Sequence[RowNote]) -> None:
        """Take note of a split's rows, bad ones included, and of those that its files left out.

        Raises TooManyBadRowsError.
        """
        self._num_rows[split] = num_rows
        self.policy.check(left_out, num_rows, left_out)
        self._pending += left_out

    def add(self, notes: Iterable[RowNote]) -> None:
        """Take the notes of a batch; they count with the next `settle`."""
        self._pending += notes

    def begin(self, checkpoint: str | Path | None = None, *, is_fresh: bool, is_writer: bool) -> None:
        """Start a new file, or go on with what a checkpoint and the file of the run before know.

        The file is written anew either way, because a killed run may have left half a line at its end.
        """
        if not is_writer:
            return
        known = [] if checkpoint is None else read_notes(Path(checkpoint) / CHECKPOINT_FILE)
        known += [] if is_fresh else read_notes(self.folder / FILE)
        self._pending += known
        (self.folder / FILE).unlink(missing_ok=True)

    def settle(self, gather: Callable[[list], list[list]], *, is_writer: bool) -> None:
        """Count the new notes of all processes and write the skipped rows down.

        gather(notes) returns the notes of every process. Raises TooManyBadRowsError, on every process or on none.
        """
        news = [note for notes in gather(self._pending) for note in notes]
        self._pending = []
        has_new = [self._count(note) for note in news]
        if is_writer:
            self.write()
        if any(has_new):
            for split, num_rows in self._num_rows.items():
                self.policy.check(self._skipped[split], num_rows)

    def write(self) -> None:
        """Append what is not in the file yet, this process's own new notes included."""
        for note in self._pending:
            self._count(note)
        self._pending = []
        for split, notes in self._skipped.items():
            _append(self.folder / FILE, notes[self._num_written[split] :])
            self._num_written[split] = len(notes)

    def give_up(self, notes: Iterable[RowNote], *, is_fresh: bool, is_writer: bool) -> None:
        """Write down what ended a run before its first step."""
        self.begin(is_fresh=is_fresh, is_writer=is_writer)
        self.add(notes)
        if is_writer:
            self.write()

    def save(self, checkpoint: Path) -> None:
        """Put all notes so far beside a checkpoint."""
        (checkpoint / CHECKPOINT_FILE).unlink(missing_ok=True)
        _append(checkpoint / CHECKPOINT_FILE, list(self._seen.values()))

    def news(self) -> str | None:
        """Return the counts in one line if they have changed since they were asked for."""
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
        """Take a note that is new; return whether it is."""
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
        parts += [f"{len(cut):,} cut to max_length ({num_dropped:,} turns dropped)"] * bool(cut)
        return f"{split}: of {self._num_rows[split]:,} rows {', '.join(parts)}" if parts else ""


def gather_notes(notes: list[RowNote], world_size: int) -> list[list[RowNote]]:
    """Return the notes of every process, in the order of the ranks; all processes must call it together."""
    if world_size <= 1:
        return [notes]
    counts: list = []
    paddle.distributed.all_gather(counts, paddle.to_tensor([len(notes)], dtype="int64"))
    if not any(int(count) for count in counts):
        return []
    gathered: list = []
    paddle.distributed.all_gather_object(gathered, notes)
    return gathered


def _append(path: Path, notes: Sequence[RowNote]) -> None:
    if not notes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON's escape of it.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(note.as_dict(), ensure_ascii=False) + "\n" for note in notes)


def read_notes(path: Path) -> list[RowNote]:
    """Return the notes of a file, none when there is no file; what is no whole line is left out."""
    if not path.is_file():
        return []
    notes = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            values = json.loads(line)
            place = [values[key] for key in ("split", "file", "row", "line", "id", "kind")]
            check_values(values, NOTE_KINDS, str(path))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a run that was killed while it wrote, or somebody else's
        notes.append(RowNote(*place, values.get("reason", ""), values.get("dropped_turns", 0)))
    return notes
