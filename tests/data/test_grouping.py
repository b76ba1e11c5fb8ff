"""Orders in which the rows of a batch are alike."""

from __future__ import annotations

import numpy as np
import pytest

from paddlemix.data.grouping import NUM_GROUPS, grouped_order

LENGTHS = np.random.default_rng(1).integers(1, 1000, 1003)


def order(seed: int = 0, group_size: int = 4, has_picture=None):
    return grouped_order(LENGTHS, group_size, np.random.default_rng(seed), has_picture)


@pytest.mark.parametrize("group_size", [1, 4, 7, 2000])
def test_every_row_comes_once(group_size):
    assert sorted(order(group_size=group_size)) == list(range(1003))


def test_batches_pad_less_than_shuffled_ones():
    def share_padded(rows):
        groups = LENGTHS[rows[:1000]].reshape([-1, 4])
        return 1 - groups.sum() / (groups.max(axis=1) * 4).sum()

    assert share_padded(order()) < 0.05 < 0.3 < share_padded(np.random.default_rng(0).permutation(1003))


def test_the_longest_row_is_in_the_first_batch():
    assert LENGTHS[order()[:4]].max() == LENGTHS.max()


def test_the_seed_decides_and_another_one_gives_other_batches():
    assert (order(3) == order(3)).all()
    assert {frozenset(group) for group in order(3)[:1000].reshape([-1, 4])} != {
        frozenset(group) for group in order(4)[:1000].reshape([-1, 4])
    }


def test_batches_have_rows_with_pictures_only_or_without_only():
    has_picture = np.random.default_rng(2).random(1003) < 0.7
    groups = has_picture[order(has_picture=has_picture)[:1000]].reshape([-1, 4])
    assert (groups.all(axis=1) | ~groups.any(axis=1)).all()
    assert 0 < groups.all(axis=1).sum() < len(groups)


def test_no_rows_have_no_order_and_few_rows_one_chunk():
    assert not len(grouped_order([], 4, np.random.default_rng(0)))
    few = grouped_order([3, 9, 5], 1, np.random.default_rng(0))
    assert few[0] == 1
    assert NUM_GROUPS > 3
