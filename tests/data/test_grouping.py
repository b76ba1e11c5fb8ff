"""Orders in which the rows of a batch have similar lengths."""

from __future__ import annotations

import numpy as np
import pytest

from paddlemix.data.grouping import NUM_GROUPS, grouped_order

LENGTHS = np.random.default_rng(1).integers(1, 1000, 1003)


def order(seed: int = 0, group_size: int = 4, has_image=None):
    return grouped_order(LENGTHS, group_size, np.random.default_rng(seed), has_image)


@pytest.mark.parametrize("group_size", [1, 4, 7, 2000])
def test_every_row_occurs_once(group_size):
    assert sorted(order(group_size=group_size)) == list(range(1003))


def test_batches_pad_less_than_shuffled_ones():
    def share_padded(rows):
        groups = LENGTHS[rows[:1000]].reshape([-1, 4])
        return 1 - groups.sum() / (groups.max(axis=1) * 4).sum()

    assert share_padded(order()) < 0.05 < 0.3 < share_padded(np.random.default_rng(0).permutation(1003))


def test_the_longest_row_is_in_the_first_batch():
    assert LENGTHS[order()[:4]].max() == LENGTHS.max()


def test_same_seed_makes_the_same_batches_and_another_seed_others():
    assert (order(3) == order(3)).all()
    assert {frozenset(group) for group in order(3)[:1000].reshape([-1, 4])} != {
        frozenset(group) for group in order(4)[:1000].reshape([-1, 4])
    }


def test_all_rows_of_a_batch_have_images_or_none_has():
    has_image = np.random.default_rng(2).random(1003) < 0.7
    groups = has_image[order(has_image=has_image)[:1000]].reshape([-1, 4])
    assert (groups.all(axis=1) | ~groups.any(axis=1)).all()
    assert 0 < groups.all(axis=1).sum() < len(groups)


def test_no_rows_have_an_empty_order():
    assert not len(grouped_order([], 4, np.random.default_rng(0)))


def test_rows_are_sorted_only_within_chunks():
    lengths = np.arange(4 * NUM_GROUPS)
    for group_size, num_chunks in ((4, 1), (2, 2)):
        order = grouped_order(lengths, group_size, np.random.default_rng(0))
        groups = order.reshape([-1, group_size])
        assert groups[0].max() == len(lengths) - 1
        is_run = groups.max(axis=1) - groups.min(axis=1) == group_size - 1
        assert is_run.all() == (num_chunks == 1)  # the whole is one chunk, or each chunk has a random half of the rows
