"""Packing: which samples share a row, and how the row is laid out."""

from __future__ import annotations

import numpy as np
import pytest

from paddlemix.data import packing
from paddlemix.data.collate import collate, collate_packs
from paddlemix.data.packing import fill_rate, first_fit, pack_rows
from paddlemix.data.sample import Sample


def plain_first_fit(lengths, max_length):
    """First fit by the textbook: the first of all rows with room."""
    packs, rooms = [], []
    for number, length in enumerate(lengths):
        place = next((index for index, room in enumerate(rooms) if room >= length), None)
        if place is None:
            packs.append([])
            rooms.append(max_length)
            place = -1
        packs[place].append(number)
        rooms[place] -= length
    return packs


@pytest.mark.parametrize("seed", range(5))
def test_packs_equal_those_of_plain_first_fit(seed):
    lengths = np.random.default_rng(seed).integers(1, 100, 400)
    assert sorted(first_fit(lengths, 128)) == sorted(plain_first_fit(lengths, 128))


def test_every_sample_is_in_one_pack_and_no_pack_is_too_long(monkeypatch):
    monkeypatch.setattr(packing, "NUM_OPEN", 4)
    generator = np.random.default_rng(0)
    lengths = generator.integers(20, 200, 1000)
    packs = first_fit(lengths, 256, order=generator.permutation(1000))
    assert sorted(number for pack in packs for number in pack) == list(range(1000))
    assert all(sum(lengths[number] for number in pack) <= 256 for pack in packs)


def test_packs_depend_on_the_order_of_samples():
    lengths = [6, 5, 4, 5]
    assert first_fit(lengths, 10) == [[0, 2], [1, 3]]
    assert first_fit(lengths, 10, order=[2, 1, 3, 0]) == [[2, 1], [3], [0]]


def test_fill_rate_is_the_share_of_positions_with_a_token():
    lengths = [6, 5, 4, 5]
    assert fill_rate([[0, 2], [1, 3]], lengths, 10) == 1.0
    assert fill_rate([[0], [1]], lengths, 10) == pytest.approx(0.55)


@pytest.mark.parametrize(("length", "words"), [(11, "has 11 tokens: expected 1 to max_length 10"), (0, "has 0 tokens")])
def test_length_that_fits_no_row_is_refused(length, words):
    with pytest.raises(ValueError, match=words):
        first_fit([3, length], 10)


def sample(*ids):
    return Sample(np.array(ids), np.array(ids))


def test_a_pack_is_a_row_of_segments_whose_positions_start_again():
    batch = collate_packs([[sample(1, 2, 3), sample(4, 5)], [sample(6, 7)]])
    assert batch.token_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2], [1, 1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]


def test_no_sample_is_trained_to_predict_the_next_ones_first_token():
    batch = collate_packs([[sample(1, 2, 3), sample(4, 5)]])
    assert batch.labels.tolist() == [[-100, 2, 3, -100, 5]]


def test_packs_of_one_sample_are_a_plain_batch():
    samples = [sample(1, 2, 3), sample(4, 5)]
    packs, plain = collate_packs([[one] for one in samples], pad_id=9), collate(samples, pad_id=9)
    for name in ("token_ids", "labels", "position_ids", "segment_ids"):
        np.testing.assert_array_equal(getattr(packs, name), getattr(plain, name))


def test_packs_of_a_run_depend_on_its_seed_and_contain_every_row():
    lengths = [9, 0, 4, 6, 1, 5]
    packs = pack_rows(lengths, 10, seed=3)
    assert packs == pack_rows(lengths, 10, seed=3)
    assert sorted(number for pack in packs for number in pack) == list(range(6))
    assert {tuple(map(tuple, pack_rows(lengths, 10, seed))) for seed in range(9)} != {tuple(map(tuple, packs))}
