"""Open a split of a run's data, from the `dataset` setting to rows. Needs no paddle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import BadRowPolicy, refuse
from ..data.encoding import Encoding
from ..data.entry_files import Mistake, find_mistakes
from ..data.measure import Measure, measure_rows
from ..data.mixture import parse_entries, scan_mixture
from ..data.row import Row
from ..data.row_note import RowNote
from ..data.row_sequence import known_lengths
from ..data.trial_rows import has_downloads
from ..terminal.sizes import plural
from .settings import DataArguments

NUM_MEASURED = 64  # rows whose tokens are counted before a run


@dataclass(frozen=True)
class Split:
    """The rows of a split. left_out: notes on the rows that are wrong in their files."""

    rows: Sequence[Row]
    left_out: list[RowNote]

    @property
    def num_rows(self) -> int:
        """The number of rows, those left out included."""
        return len(self.rows) + len(self.left_out)


def data_mistakes(
    data: DataArguments, splits: Sequence[str], strategy: str, *, processor: LlavaProcessor, config_folder: Path | None
) -> list[Mistake]:
    """Return what is wrong with the splits that a run reads, as far as it shows before their rows are read.

    strategy: the run's evaluation_strategy. processor: encodes the rows to train on.
    """
    if data.dataset is None:
        return []
    found = find_mistakes(
        data.dataset,
        splits,
        template=processor.template,
        config_folder=config_folder,
        image_folder=data.image_folder,
    )
    for split in splits:
        if all(mistake.split != split for mistake in found) and not parse_entries(data.dataset, split):
            found.append(Mistake(split, _missing_split(split, strategy)))
    return found


def _missing_split(split: str, strategy: str) -> str:
    if split != "eval":
        return f"the dataset has no entry under {split!r}: name data_files under that key"
    asked, remedy = "do_eval is true", "leave do_eval out"
    if strategy != "no":
        asked, remedy = f"evaluation_strategy is {strategy!r}", 'set "evaluation_strategy": "no"'
    return f"{asked}, but the dataset has no entry under 'eval': name data_files under that key, or {remedy}"


def open_split(
    data: DataArguments,
    split: str,
    *,
    processor: LlavaProcessor,
    config_folder: Path | None,
    seed: int,
    policy: BadRowPolicy | None = None,
) -> Split:
    """Read the files of a split and mix their rows. `data_mistakes` finds what is wrong with all of them, before.

    processor: encodes the rows; rows that were encoded before are compared with it. policy: decides whether rows that
    are wrong in their files may be left out; None: they always may.
    Raises ValueError for wrong files and for a split without rows, TooManyBadRowsError as the policy demands.
    """
    if data.dataset is None:
        raise ValueError('dataset is missing: expected {"train": [{"name": "chatml_dataset", "data_files": "..."}]}')
    rows, left_out = scan_mixture(
        data.dataset,
        split,
        encoding=Encoding(processor.tokenizer, processor.template, processor.spec, data.max_length),
        config_folder=config_folder,
        image_folder=data.image_folder,
        seed=seed,
    )
    if not len(rows):
        raise ValueError(f"the dataset has no rows for {split!r}: name data_files under that key")
    found = Split(rows, left_out)
    if policy is not None:
        if not policy.is_structure_skipped:
            refuse(left_out)
        policy.check(left_out, found.num_rows, left_out)
    return found


def measure_of(processor: LlavaProcessor, max_length: int, *, is_thorough: bool = True) -> Measure:
    """Return what measures rows as a processor encodes them. is_thorough: decode each image, not only its size."""
    return Measure(processor.tokenizer, processor.template, processor.spec, max_length, is_thorough=is_thorough)


def in_words(found: Split, measure: Measure) -> str:
    """Return "64 rows, about 1,900 tokens, 2 rows left out". The tokens are those of NUM_MEASURED rows, times the rest.

    measure: not thorough, so that images are opened for their size only. Rows on the network are not measured.
    """
    rows, chosen = found.rows, np.unique(np.linspace(0, len(found.rows) - 1, NUM_MEASURED).astype(int))
    known = known_lengths(rows)
    if known.all():
        tokens = f", {plural(int(known.sum()), 'token')}"
    else:
        some = [row for row in (rows[index] for index in chosen) if not has_downloads(row)]
        counts = [facts.num_kept for facts in measure_rows(some, measure)]
        number = sum(counts) if len(counts) == len(rows) else round(sum(counts) / max(len(counts), 1) * len(rows), -2)
        tokens = f", {'' if len(counts) == len(rows) else 'about '}{number:,.0f} tokens" if number else ""
    left_out = f", {plural(len(found.left_out), 'wrong row')} left out" if found.left_out else ""
    return plural(len(rows), "row") + tokens + left_out
