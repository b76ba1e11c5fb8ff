"""The engine's cached passes, against whole passes without a cache."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix.generate import engine as engine_module
from paddlemix.generate.engine import Engine, decode_rows

LENGTH = 23
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    return tiny_folder.load("pad")[0]


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 400, [3, LENGTH])


def embeds_of(model, ids):
    with paddle.no_grad():
        return model.language_model.embed_tokens(paddle.to_tensor(ids))


def whole_logits(model, ids) -> np.ndarray:
    """Return the logits [B, T, vocab] of one pass without a cache."""
    language = model.language_model
    with paddle.no_grad():
        positions = paddle.arange(ids.shape[1]).unsqueeze(0).expand(list(ids.shape))
        return language.logits(language(embeds_of(model, ids), positions)).numpy()


def read(engine: Engine, model, ids, start: int = 0) -> np.ndarray:
    positions = np.arange(start, start + ids.shape[1])[None].repeat(len(ids), 0)
    return engine.read(embeds_of(model, ids), positions)


@pytest.mark.parametrize("cuts", [(LENGTH,), (1, 2, LENGTH), (10, 11, 22, LENGTH)], ids=str)
def test_reading_in_pieces_gives_the_logits_of_one_pass(cuts, model, ids):
    engine, expected, start = Engine(model, 3, LENGTH), whole_logits(model, ids), 0
    for end in cuts:
        found = read(engine, model, ids[:, start:end], start)
        np.testing.assert_allclose(found, expected[:, end - 1], atol=TOLERANCE)
        start = end
    assert engine.length == LENGTH and engine.num_passes == len(cuts)


def test_several_tokens_at_once_have_the_logits_of_one_after_the_other(model, ids):
    engine, expected = Engine(model, 1, LENGTH), whole_logits(model, ids[:1])[0]
    read(engine, model, ids[:1, :12])
    np.testing.assert_allclose(engine.read_several(ids[0, 12:20], 12), expected[12:20], atol=TOLERANCE)
    engine.cache.trim(15)
    for place in range(15, LENGTH):
        found = engine.read_ids(ids[:1, place], np.array([[place]]))
        np.testing.assert_allclose(found[0], expected[place], atol=TOLERANCE)


def test_padding_is_hidden_and_stays_hidden_after_rows_are_dropped(model, ids):
    pads = np.array([0, 5, 9])
    engine, columns = Engine(model, 3, LENGTH + 2), np.arange(LENGTH)
    engine.hide_padding(columns >= pads[:, None])
    positions = np.maximum(columns - pads[:, None], 0)
    logits = engine.read(embeds_of(model, ids), positions)
    alone = [whole_logits(model, ids[row : row + 1, pad:])[0] for row, pad in enumerate(pads)]
    np.testing.assert_allclose(logits, [each[-1] for each in alone], atol=TOLERANCE)
    engine.keep_rows([0, 2])
    found = engine.read_ids([7, 8], np.array([[LENGTH], [LENGTH - 9]]))
    for row, token, after in ((0, 7, found[0]), (2, 8, found[1])):
        longer = np.concatenate([ids[row, pads[row] :], [token]])[None]
        np.testing.assert_allclose(after, whole_logits(model, longer)[0, -1], atol=TOLERANCE)


def test_bucketed_lengths_change_neither_logits_nor_the_length(model, ids, monkeypatch):
    expected = whole_logits(model, ids)
    monkeypatch.setattr(engine_module, "bucketed_length", lambda length: -(-length // 16) * 16)
    engine = Engine(model, 3, LENGTH)
    for start, end in ((0, 9), (9, 20), (20, LENGTH)):
        np.testing.assert_allclose(read(engine, model, ids[:, start:end], start), expected[:, end - 1], atol=TOLERANCE)
        assert engine.length == end


def test_lengths_do_not_matter_without_two_rotary_scalings(model, ids):
    engine = Engine(model, 3, LENGTH)
    read(engine, model, ids)
    engine.set_lengths([10_000] * 3)
    assert engine.length == LENGTH and model.language_model.rotary.long is None


class CountingEngine:
    """Returns each row's number as logits, and records the requested reads."""

    def __init__(self, num_rows: int):
        self.rows = list(range(num_rows))
        self.read: list[tuple] = []

    def keep_rows(self, rows) -> None:
        self.rows = [self.rows[row] for row in rows]

    def read_ids(self, token_ids, position_ids) -> np.ndarray:
        self.read.append((list(self.rows), list(token_ids), position_ids[:, 0].tolist()))
        return np.array(self.rows)[:, None]


class CountingRow:
    """Takes a number of tokens, each 100 times its row plus how many it took."""

    def __init__(self, number: int, num_tokens: int):
        self.number, self.num_tokens, self.taken = number, num_tokens, []

    @property
    def is_open(self) -> bool:
        return len(self.taken) < self.num_tokens

    def take(self, logits) -> int:
        assert self.is_open and logits[0] == self.number, "logits of another row"
        self.taken.append(100 * self.number + len(self.taken))
        return self.taken[-1]


def test_rows_are_decoded_in_lockstep_until_all_are_finished():
    rows = [CountingRow(number, num_tokens) for number, num_tokens in enumerate((2, 5, 1, 3))]
    engine = CountingEngine(4)
    decode_rows(engine, np.arange(4)[:, None], [10, 20, 30, 40], rows)
    assert [len(row.taken) for row in rows] == [2, 5, 1, 3]
    assert engine.read[0] == ([0, 1, 2, 3], [0, 100, 200, 300], [10, 20, 30, 40])
    for step, (numbers, tokens, positions) in enumerate(engine.read):
        for number, token, position in zip(numbers, tokens, positions, strict=True):
            if len(rows[number].taken) > step + 1:  # the row continues
                assert (token, position) == (rows[number].taken[step], 10 * (number + 1) + step)
    assert engine.read[-1][0] == [1] and len(engine.read) == 4
