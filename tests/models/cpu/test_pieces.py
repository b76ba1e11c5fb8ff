"""Pieces of a prefill cover all positions once, and what is wanted of them is what the runs want."""

from __future__ import annotations

import paddle
import pytest

from paddlemix.models.cpu.pieces import LARGEST, Piece, Segment, piece_size, split_runs
from paddlemix.models.kv_cache import Run

RUNS = (Run(0, 0, 300, 1), Run(2, 40, 5, 5), Run(1, 7, 1, 0), Run(3, 0, 60, 2))


@pytest.mark.parametrize("size", [1, 7, 64, 300, 1000])
def test_pieces_cover_the_runs_in_order(size):
    pieces = split_runs(RUNS, size)
    found = [(part.slot, place) for piece in pieces for part in piece for place in range(part.start, part.end)]
    assert found == [(run.slot, place) for run in RUNS for place in range(run.start, run.end)]
    counts = [sum(part.count for part in piece) for piece in pieces]
    assert set(counts[:-1]) <= {size} and 0 < counts[-1] <= size


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_the_last_positions_of_each_run_are_wanted(size):
    wanted = {
        (part.slot, place)
        for piece in split_runs(RUNS, size)
        for part in piece
        for place in range(part.end - part.num_wanted, part.end)
    }
    assert wanted == {(0, 299), *((2, place) for place in range(40, 45)), (3, 58), (3, 59)}


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("number", [1, 63, 64, 300, 1024, 5000])
def test_all_workers_get_the_same_number_of_pieces(number, threads, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", str(threads))
    size = piece_size(number, LARGEST)
    num_pieces = -(-number // size)
    assert size <= LARGEST
    assert num_pieces % threads == 0 or number < 64 * threads
    assert num_pieces == 1 or number >= 64


def test_one_worker_gets_one_piece(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "1")
    assert piece_size(3000, LARGEST) == 3000


def test_wanted_positions_of_a_piece_are_selected_from_hidden_states_tables_and_masks():
    segments = Segment(0, 10, 14, 1), Segment(1, 0, 2, 0), Segment(2, 5, 8, 2)
    hidden = paddle.arange(9, dtype="float32").unsqueeze(1)
    table = hidden.reshape([1, 1, 9, 1])
    masks = [paddle.arange(count, dtype="float32").reshape([1, 1, count, 1]) for count in (4, 2, 3)]
    piece = Piece(segments, hidden, ((table, table), None), tuple([mask] for mask in masks)).wanted()
    assert piece.segments == (Segment(0, 13, 14, 1), Segment(2, 6, 8, 2))
    assert piece.hidden.flatten().tolist() == piece.tables[0][1].flatten().tolist() == [3, 7, 8]
    assert [masks[0].flatten().tolist() for masks in piece.masks] == [[3], [1, 2]]
    assert Piece((Segment(0, 0, 9, 0),), hidden, (), (None,)).wanted().segments == ()
