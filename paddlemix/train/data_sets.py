"""The rows of a run: read, checked, and packed or grouped where that is asked for."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from tqdm import tqdm

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import BadRowPolicy, TooManyBadRowsError, refuse
from ..data.dataset import ConversationDataset
from ..data.measure import Measure, default_workers, measure_rows
from ..data.mixture import scan_mixture
from ..data.packed_rows import PackedRows
from ..data.packing import fill_rate, pack_rows
from ..data.row import Row
from ..data.row_note import TOO_LONG, RowNote
from ..data.trial_rows import check_images
from ..terminal.log import notice
from .sampler import Grouping
from .tally import RowTally


@dataclass(frozen=True)
class DataSets:
    """What a run reads: samples or packs to train on, samples to evaluate on, None where not needed.

    teacher: what encodes them, with the template that is trained.
    """

    train: ConversationDataset | PackedRows | None
    eval: ConversationDataset | None
    grouping: Grouping | None = None
    teacher: LlavaProcessor | None = None


def read_data(
    teacher: LlavaProcessor,
    data_args,
    args,
    config_folder: Path | None,
    tally: RowTally,
    *,
    choose: Callable | None = None,
) -> DataSets:
    """Return the sets of a run. Raises ValueError for anything wrong with the files.

    teacher: encodes with the template that is trained. tally: takes note of the rows that its policy leaves out.
    choose: from the rows of a split to those that are read; None for all of them.
    """
    if data_args.dataset is None:
        raise ValueError('dataset is missing: expected {"train": [{"name": "chatml_dataset", "data_files": "..."}]}')
    try:
        return _read(teacher, data_args, args, config_folder, tally, choose)
    except TooManyBadRowsError as error:
        tally.give_up(error.notes, is_fresh=args.overwrite_output_dir, is_writer=args.process_index == 0)
        raise


def _read(teacher: LlavaProcessor, data_args, args, config_folder, tally: RowTally, choose) -> DataSets:
    read = functools.partial(_read_split, teacher, data_args, args, config_folder, tally, choose)
    train = read("train") if args.do_train else None
    evaluated = read("eval") if args.do_eval else None
    if train is None:
        return DataSets(None, evaluated, teacher=teacher)
    is_packed = data_args.packing or data_args.mixtoken
    is_grouped = args.group_by_length or args.group_by_modality_length
    if not (is_packed or is_grouped):
        return DataSets(train, evaluated, teacher=teacher)
    lengths = row_lengths(
        train.rows,
        _measure(teacher, data_args.max_length),
        rank=args.process_index,
        num_processes=args.world_size,
        policy=tally.policy,
        num_left_out=train.num_left_out,
    )
    if is_packed:
        if is_grouped:
            notice("group_by_length and group_by_modality_length have no effect with packing: every row is full")
        return DataSets(_packed(train, lengths, data_args.max_length, args.seed), evaluated, teacher=teacher)
    has_picture = [bool(row.conversation.images) for row in train.rows]
    grouping = Grouping(lengths, has_picture if args.group_by_modality_length else None)
    return DataSets(train, evaluated, grouping, teacher)


def _read_split(teacher, data_args, args, config_folder, tally, choose, split: str) -> ConversationDataset:
    rows, left_out = scan_mixture(
        data_args.dataset,
        split,
        template=teacher.template,
        config_folder=config_folder,
        image_folder=data_args.image_folder,
        seed=args.seed,
    )
    if not rows:
        raise ValueError(f"the dataset has no rows for {split!r}: name data_files under that key")
    if not tally.policy.is_structure_skipped:
        refuse(left_out)
    rows = rows if choose is None else choose(rows)
    tally.expect(split, len(rows) + len(left_out), left_out)
    check_images(rows, _measure(teacher, data_args.max_length), tally.policy, split, len(left_out))
    print(f"{split}: {len(rows)} rows, template {teacher.template.name}", flush=True)
    encode = functools.partial(teacher.encode_to_train, max_length=data_args.max_length)
    options = {"policy": tally.policy, "split": split, "seed": args.seed, "num_left_out": len(left_out)}
    return ConversationDataset(rows, encode, **options)


def _measure(teacher: LlavaProcessor, max_length: int) -> Measure:
    return Measure(teacher.tokenizer, teacher.template, teacher.spec, max_length, is_thorough=False)


def _packed(rows: ConversationDataset, lengths: np.ndarray, max_length: int, seed: int) -> PackedRows:
    """Return the rows in packs, the same ones in every epoch, and say how full they are."""
    packs = pack_rows(lengths, max_length, seed)
    fill = fill_rate(packs, lengths, max_length)
    print(f"train: packed into {len(packs)} rows of up to {max_length} tokens, {fill:.1%} full", flush=True)
    return PackedRows(rows, packs, max_length)


def row_lengths(
    rows: Sequence[Row],
    measure: Measure,
    *,
    rank: int = 0,
    num_processes: int = 1,
    policy: BadRowPolicy | None = None,
    split: str = "train",
    num_left_out: int = 0,
) -> np.ndarray:
    """Return the tokens of each row after cutting, int64 [rows], 0 where it will be skipped; called by all processes.

    Each process counts its share. Pictures are opened for their size only, so that nothing but numbers is held.
    policy: raises TooManyBadRowsError, on every process, as soon as more rows are bad than may be skipped; None: never.
    num_left_out: rows that were skipped before, in their files.
    """
    total = len(rows) + num_left_out
    limit = math.inf if policy is None else policy.limit(total) if policy.is_content_skipped else 0
    workers = max(default_workers() // num_processes, 1)
    lengths, bad = _count(rows[rank::num_processes], measure, workers, split, limit, has_bar=rank == 0)
    gathered: list = [(lengths, bad)]
    if num_processes > 1:
        gathered = []
        paddle.distributed.all_gather_object(gathered, (lengths, bad))
    if policy is not None:
        _check([note for _, notes in gathered for note in notes], total, policy)
    counted = np.empty(len(rows), dtype=np.int64)
    for other, (part, _) in enumerate(gathered):
        counted[other::num_processes] = part
    return counted


def _count(
    rows: Sequence[Row], measure: Measure, num_workers: int, split: str, limit: float, *, has_bar: bool
) -> tuple[np.ndarray, list[RowNote]]:
    """Return the lengths of rows and the notes of bad ones, each once; stop where there are more than limit."""
    lengths, bad = [], {}
    with closing(measure_rows(rows, measure, num_workers=num_workers)) as facts:
        is_shown = has_bar and sys.stderr.isatty()
        for row, fact in zip(rows, tqdm(facts, "counting tokens", len(rows), disable=not is_shown), strict=False):
            lengths.append(fact.num_kept)
            if fact.kind in (None, TOO_LONG):
                continue
            note = RowNote.of(row, split, fact.kind, fact.reason)
            bad[note.key] = note  # a mixture may hold a row twice
            if len(bad) > limit:
                break
    return np.array(lengths, dtype=np.int64), list(bad.values())


def _check(notes: list[RowNote], total: int, policy: BadRowPolicy) -> None:
    if notes and not policy.is_content_skipped:
        raise TooManyBadRowsError(f"{notes[0].where}: {notes[0].reason}", notes)
    policy.check(notes, total, notes)
