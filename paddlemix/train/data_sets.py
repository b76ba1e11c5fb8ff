"""The data sets of a run: rows to samples, packed or grouped by length where the settings ask for it."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import BadRowPolicy, TooManyBadRowsError
from ..data.dataset import ConversationDataset, PackedRows
from ..data.entry_files import refuse_mistakes
from ..data.measure import Measure, default_workers, measure_rows
from ..data.packing import fill_rate, first_fit, pack_rows
from ..data.row import Row
from ..data.row_note import TOO_LONG, RowNote
from ..data.row_sequence import have_images, known_lengths, stored_order
from ..data.trial_rows import check_images
from ..terminal.log import notice
from ..terminal.sizes import plural
from .eval_tasks import EvalTask, check_best_metric, load_tasks
from .loader import Grouping, StoredOrder
from .processes import gather
from .split import Split, data_mistakes, in_words, measure_of, open_split
from .tally import RowTally


@dataclass(frozen=True)
class DataSets:
    """What a run reads: samples or packs to train on, samples to evaluate on, None where not needed.

    train_processor: encodes the rows, with the template that is trained. tasks: to answer at each evaluation.
    """

    train: ConversationDataset | PackedRows | None
    eval: ConversationDataset | None
    grouping: Grouping | StoredOrder | None
    train_processor: LlavaProcessor
    tasks: tuple[EvalTask, ...] = ()

    @property
    def main_metrics(self) -> list[str]:
        """The main metric of each benchmark."""
        return [task.main for task in self.tasks]

    @property
    def train_rows(self) -> Sequence[Row]:
        """The rows to train on, before they are packed."""
        return self.train.rows.rows if isinstance(self.train, PackedRows) else self.train.rows


def read_data(
    train_processor: LlavaProcessor,
    data_args,
    args,
    config_folder: Path | None,
    tally: RowTally,
    *,
    rows: list[Row] | None = None,
) -> DataSets:
    """Return the data sets of a run. Raises ValueError for anything wrong with the files.

    tally: records the rows that its policy leaves out. rows: train on these instead of the data files' rows.
    """
    own_rows = ("train",) if args.do_train and rows is None else ()
    splits = own_rows + ("eval",) * (args.do_eval and data_args.has_eval_rows)
    strategy = args.evaluation_strategy.value
    refuse_mistakes(data_mistakes(data_args, splits, strategy, processor=train_processor, config_folder=config_folder))
    read = functools.partial(_read_split, train_processor, data_args, args, config_folder, tally)
    try:
        train = read("train", None if rows is None else Split(rows, [])) if args.do_train else None
        evaluated = read("eval") if "eval" in splits else None
        train, grouping = (None, None) if train is None else _arrange(train, train_processor, data_args, args, tally)
    except TooManyBadRowsError as error:
        tally.give_up(error.notes, is_fresh=args.overwrite_output_dir)
        raise
    tasks = _read_tasks(data_args, args, config_folder, evaluated is not None) if args.do_eval else ()
    return DataSets(train, evaluated, grouping, train_processor, tasks)


def _read_split(
    train_processor, data_args, args, config_folder, tally: RowTally, name: str, split: Split | None = None
) -> ConversationDataset:
    if split is None:
        split = open_split(
            data_args,
            name,
            processor=train_processor,
            config_folder=config_folder,
            seed=args.seed,
            policy=tally.policy,
        )
        measure = measure_of(train_processor, data_args.max_length, is_thorough=False)
        check_images(split.rows, measure, tally.policy, name, len(split.left_out))
        if args.process_index == 0:
            print(f"{name}: {in_words(split, measure)}, template {train_processor.template.name}", flush=True)
    tally.expect(name, split.num_rows, split.left_out)
    encode = functools.partial(train_processor.encode_to_train, max_length=data_args.max_length)
    options = {"policy": tally.policy, "split": name, "seed": args.seed, "num_left_out": len(split.left_out)}
    return ConversationDataset(split.rows, encode, **options)


def _read_tasks(data_args, args, config_folder: Path | None, has_rows: bool) -> tuple[EvalTask, ...]:
    tasks = load_tasks(data_args.eval_tasks, config_folder)
    check_best_metric(args.metric_for_best_model, tasks, has_rows)
    for task in tasks:
        print(f"eval_tasks {task.name}: {task.summary()}", flush=True)
    return tasks


def _arrange(
    train: ConversationDataset, train_processor: LlavaProcessor, data_args, args, tally: RowTally
) -> tuple[ConversationDataset | PackedRows, Grouping | StoredOrder | None]:
    """Pack the training rows, or return what to order them by, as the settings ask."""
    is_grouped, order = args.group_by_length or args.group_by_modality_length, stored_order(train.rows)
    if order is not None and is_grouped:
        raise ValueError(
            "group_by_length and group_by_modality_length order the rows, and so does 'order': 'stored' of the "
            "dataset: leave one of them out"
        )
    if not (data_args.is_packed or is_grouped):
        return train, None if order is None else StoredOrder(order)
    lengths = row_lengths(
        train.rows,
        measure_of(train_processor, data_args.max_length, is_thorough=False),
        rank=args.process_index,
        num_processes=args.world_size,
        policy=tally.policy,
        num_left_out=train.num_left_out,
    )
    if data_args.is_packed:
        if is_grouped:
            notice("group_by_length and group_by_modality_length have no effect with packing: every row is full")
        packed = _packed(train, lengths, data_args.max_length, args.seed, order)
        return packed, None if order is None else StoredOrder(np.arange(len(packed)))
    has_image = have_images(train.rows) if args.group_by_modality_length else None
    return train, Grouping(lengths, has_image)


def _packed(
    rows: ConversationDataset, lengths: np.ndarray, max_length: int, seed: int, order: np.ndarray | None
) -> PackedRows:
    """Pack the rows, the same way in every epoch, and print how full the packs are. order: None for a random one."""
    if order is None:
        packs = pack_rows(lengths, max_length, seed)
    else:
        packs = first_fit(np.maximum(lengths, 1), max_length, order)
    fill = fill_rate(packs, lengths, max_length)
    words = (
        f"{plural(len(packs), 'row')} of up to {max_length:,} tokens, {fill:.1%} full, {lengths.sum():,} tokens in all"
    )
    print(f"train: packed into {words}", flush=True)
    return PackedRows(rows, packs, max_length)


def row_lengths(
    rows: Sequence[Row],
    measure: Measure,
    *,
    rank: int = 0,
    num_processes: int = 1,
    policy: BadRowPolicy | None = None,
    num_left_out: int = 0,
) -> np.ndarray:
    """Return the tokens of each training row after cutting, int64 [rows], 0 for a row to skip; all processes call it.

    Lengths that are stored are taken from there. Each process counts its share of the other rows. Images are opened for
    their size only, to save time and memory.
    policy: raises TooManyBadRowsError, in every process, as soon as more rows are bad than it allows; None: never.
    num_left_out: rows that were skipped before because they are wrong in their files.
    """
    total = len(rows) + num_left_out
    limit = math.inf if policy is None else policy.limit(total) if policy.is_content_skipped else 0
    workers = max(default_workers() // num_processes, 1)
    counted = known_lengths(rows)
    unknown = np.flatnonzero(counted == 0)  # stored rows to skip as well, for their reasons
    own = rows if len(unknown) == len(rows) and num_processes <= 1 else [rows[n] for n in unknown[rank::num_processes]]
    lengths, bad = _count(own, measure, workers, limit, has_bar=rank == 0)
    gathered = gather((lengths, bad), num_processes)
    if policy is not None:
        notes = [note for _, noted in gathered for note in noted]
        if notes and not policy.is_content_skipped:
            raise TooManyBadRowsError(f"{notes[0].where}: {notes[0].reason}", notes)
        policy.check(notes, total, notes)
    for other, (part, _) in enumerate(gathered):
        counted[unknown[other::num_processes]] = part
    return counted


def _count(
    rows: Sequence[Row], measure: Measure, num_workers: int, limit: float, *, has_bar: bool
) -> tuple[np.ndarray, list[RowNote]]:
    """Return the lengths of rows and one note for each bad row; stop when more than limit rows are bad."""
    lengths, bad = [], {}
    with closing(measure_rows(rows, measure, num_workers=num_workers)) as facts:
        is_shown = has_bar and sys.stderr.isatty()
        for row, fact in zip(rows, tqdm(facts, "counting tokens", len(rows), disable=not is_shown), strict=False):
            lengths.append(fact.num_kept)
            if fact.kind in (None, TOO_LONG):
                continue
            note = RowNote.of(row, "train", fact.kind, fact.reason)
            bad[note.key] = note  # a mixture may have a row twice
            if len(bad) > limit:
                break
    return np.array(lengths, dtype=np.int64), list(bad.values())
