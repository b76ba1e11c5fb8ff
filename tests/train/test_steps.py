"""What an optimizer step is made of: which rows, and how much each of their tokens counts."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_folder
from tiny_training import build, settings, train, weights

from paddlemix.data.dataset import ConversationDataset
from paddlemix.train.sampler import SKIPPED, EpochBatchSampler, Grouping

SHARED = {"max_steps": 3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "adam_epsilon": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none to three pictures, whose answers are of different lengths."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def moved(tmp_path, data, name, **changes):
    """Train and return how far each weight went."""
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
    assert largest(whole) > 1e-4
    assert largest({key: whole[key] - parts[key] for key in whole}) < 1e-5 * max(largest(whole), 1)


def test_mean_over_samples_is_another_one_than_over_tokens(tmp_path, data):
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
