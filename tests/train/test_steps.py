"""The rows of an optimizer step, and the weight of each of their tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny_folder
from tiny_training import build, settings, train, weights

from paddlemix.data.dataset import ConversationDataset, PackedRows
from paddlemix.data.measure import Measure
from paddlemix.data.row_note import RowNote
from paddlemix.data.sample import Sample
from paddlemix.train.data_sets import row_lengths
from paddlemix.train.loader import SKIPPED, EpochBatchSampler, Grouping

SHARED = {"max_steps": 3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "adam_epsilon": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none to three images, whose answers have different lengths."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def moved(tmp_path, data, name, **changes):
    """Train and return the change of each weight."""
    trainer = train(settings(tmp_path / name, data, "anyres", **{**SHARED, **changes}))
    start = weights(build(settings(tmp_path / f"{name}-start", data, "anyres", **SHARED)).llava)
    return {key: value - start[key] for key, value in weights(trainer.llava).items()}


def largest(steps) -> float:
    return max(float(np.abs(step).max()) for step in steps.values())


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_accumulated_batches_train_as_one_large_batch_does(tmp_path, data, reduction):
    whole = moved(tmp_path, data, "whole", per_device_train_batch_size=4, loss_reduction=reduction)
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "loss_reduction": reduction}
    parts = moved(tmp_path, data, "parts", **options)
    assert largest(whole) > 1e-5
    assert largest({key: whole[key] - parts[key] for key in whole}) < 1e-3 * largest(whole)


def test_mean_over_samples_differs_from_the_mean_over_tokens(tmp_path, data):
    token = moved(tmp_path, data, "token", per_device_train_batch_size=4)
    sample = moved(tmp_path, data, "sample", per_device_train_batch_size=4, loss_reduction="sample")
    assert largest({key: token[key] - sample[key] for key in token}) > 0.01 * largest(token)


def test_resumed_run_reads_no_row_that_it_has_seen(tmp_path, data, monkeypatch):
    values = settings(tmp_path, data, save_strategy="steps", save_steps=3, per_device_train_batch_size=1)
    train({**values, "max_steps": 3})
    read = []
    plain = ConversationDataset.__getitem__
    monkeypatch.setattr(
        ConversationDataset, "__getitem__", lambda rows, index: read.append(index) or plain(rows, index)
    )
    trainer = train({**values, "overwrite_output_dir": False})
    order = np.random.default_rng([trainer.args.seed, 0]).permutation(8).tolist()
    assert read[0] == order[3] and not set(order[:3]) & set(read)


def sampler(num_rows, **changes):
    options = {"batch_size": 2, "num_replicas": 2, "rank": 0, "drop_last": False, "seed": 3}
    return EpochBatchSampler(range(num_rows), **{**options, **changes})


def test_skipped_batches_are_those_at_the_front_of_one_epoch():
    one = sampler(16)
    plain = list(one)
    one.num_skipped = 2
    skipping = list(one)
    assert skipping == [[SKIPPED, SKIPPED]] * 2 + plain[2:]
    assert list(one) == plain


def test_batches_of_all_processes_are_grouped_together():
    lengths = np.random.default_rng(0).integers(1, 500, 64)
    ranks = [list(sampler(64, rank=rank, grouping=Grouping(lengths))) for rank in (0, 1)]
    together = [lengths[np.array(first + second)] for first, second in zip(*ranks, strict=True)]
    assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(64))
    assert np.mean([group.max() - group.min() for group in together]) < 60


def test_packed_rows_train_as_separate_ones_do(tmp_path, data, capsys):
    shared = {"max_steps": 2, "per_device_train_batch_size": 8}  # all rows, or packs, are one batch
    separate = moved(tmp_path, data, "separate", **shared)
    packed = moved(tmp_path, data, "packed", **shared, mixtoken=True, max_length=500)
    printed = capsys.readouterr().out
    num_packs = int(re.search(r"packed into (\d+) rows of up to 500 tokens, \d\d\.\d% full", printed).group(1))
    assert 1 < num_packs < 8
    assert largest({key: separate[key] - packed[key] for key in separate}) < 1e-3 * largest(separate)


def test_packs_are_counted_after_the_images_are_expanded(tmp_path, data):
    trainer = build(settings(tmp_path, data, "anyres", packing=True, max_length=500))
    packs = [trainer.train_dataset[number] for number in range(len(trainer.train_dataset))]
    lengths = [sum(len(sample.token_ids) for sample in pack) for pack in packs]
    assert max(lengths) <= 500 and sum(map(len, packs)) == 8
    counted = trainer.train_dataset.rows
    rows = row_lengths(counted.rows.rows, measure_of(trainer, 500))
    assert [sum(rows[number] for number in pack) for pack in counted.packs] == lengths


def measure_of(trainer, max_length):
    processor = trainer.processor
    return Measure(processor.tokenizer, processor.template, processor.spec, max_length, is_thorough=False)


def test_grouped_batches_have_images_or_none(tmp_path, data):
    trainer = build(settings(tmp_path, data, "anyres", group_by_modality_length=True))
    batches = list(trainer._get_train_sampler())
    has_image = [[bool(trainer.train_dataset[row].images) for row in batch] for batch in batches]
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert sum(len(set(batch)) > 1 for batch in has_image) <= 1  # one batch has the rest of both kinds


class Rows:
    """Samples of given lengths; those in replaced are replacements for bad rows."""

    def __init__(self, lengths, replaced=()):
        self.lengths, self.replaced = lengths, replaced

    def __getitem__(self, index):
        note = RowNote("train", "a.json", index + 1, None, None, "missing_image")
        ids = np.full(self.lengths[index], index)
        return Sample(ids, ids, notes=(note,) * (index in self.replaced))


def test_replacement_of_a_bad_row_never_makes_a_pack_too_long():
    rows = Rows([4, 9, 5, 1], replaced=(1, 3))
    pack = PackedRows(rows, [[0, 1, 2, 3]], max_length=10)[0]
    assert [int(sample.token_ids[0]) for sample in pack] == [0, 2, 3]
    assert sorted(note.number for sample in pack for note in sample.notes) == [2, 4]
    alone = PackedRows(rows, [[1]], max_length=5)[0]
    assert len(alone) == 1 and len(alone[0].token_ids) == 9
