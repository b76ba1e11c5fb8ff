"""Decodes rows in lockstep: reads embeddings or tokens into a key-value cache and returns the logits that follow.

Knows neither text nor turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import paddle

from ..device import bucketed_length


class Engine:
    """A model with a key-value cache for rows of equal length. num_passes counts the passes through the model.

    lengths: how long each row's prompt and answer can become, see `set_lengths`; None for the capacity.
    """

    def __init__(self, model, num_rows: int, capacity: int, lengths: Sequence[int] | None = None):
        self.model = model
        self.cache = model.language_model.new_cache(num_rows, capacity)
        self.is_key_visible = None
        self.num_passes = 0
        self._visible: np.ndarray | None = None
        self.set_lengths([capacity] * num_rows if lengths is None else lengths)

    @property
    def length(self) -> int:
        return self.cache.length

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Choose each row's rotary scaling by how long it can become; empty the cache if it was read with another."""
        is_long = self.model.language_model.rotary.choose(lengths)
        if is_long != self.cache.is_long:
            self.cache.trim(0)
            self.cache.is_long = is_long

    def hide_padding(self, is_real: np.ndarray) -> None:
        """Hide the padding of the prompts from all rows. is_real: bool [B, prompt length]."""
        visible = np.ones([is_real.shape[0], self.cache.capacity], dtype=bool)
        visible[:, : is_real.shape[1]] = is_real
        self._set_visible(visible)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        self.cache.take_rows(rows, [0] * len(rows), self.length)
        if self._visible is not None:
            self._set_visible(self._visible[list(rows)])

    def read(self, embeds, position_ids: np.ndarray) -> np.ndarray:
        """Append embeds [B, T, H] at position_ids [B, T]; return the last position's logits, float32 [B, vocab]."""
        with paddle.no_grad():
            hidden = self._read(embeds, position_ids)
            return self.model.language_model.logits(hidden[:, embeds.shape[1] - 1]).astype("float32").numpy()

    def read_ids(self, token_ids: Sequence[int], position_ids: np.ndarray) -> np.ndarray:
        """Append one token a row; return logits float32 [B, vocab]."""
        return self.read(self._embed(np.reshape(token_ids, [-1, 1])), position_ids)

    def read_several(self, token_ids: Sequence[int], start: int) -> np.ndarray:
        """Append tokens to the only row, at positions from `start` on; return the logits of each, [T, vocab]."""
        number = len(token_ids)
        with paddle.no_grad():
            embeds = self._embed(np.reshape(token_ids, [1, -1]))
            hidden = self._read(embeds, np.arange(start, start + number)[None])
            return self.model.language_model.logits(hidden[0, :number]).astype("float32").numpy()

    def _embed(self, token_ids: np.ndarray):
        with paddle.no_grad():
            return self.model.language_model.embed_tokens(paddle.to_tensor(token_ids.astype(np.int64)))

    def _read(self, embeds, position_ids: np.ndarray):
        """Return the hidden states of the appended positions, followed by those of padding to a bucketed length."""
        num_new = embeds.shape[1]
        positions = paddle.to_tensor(np.asarray(position_ids, dtype=np.int64))
        embeds, positions = self._padded(embeds, positions)
        self.num_passes += 1
        forward = self.model.language_model.forward_cached
        hidden = forward(embeds, positions, self.cache, is_key_visible=self.is_key_visible)
        # The keys of padding after the last position stay hidden from the positions that overwrite them.
        self.cache.trim(self.cache.length - embeds.shape[1] + num_new)
        return hidden

    def _padded(self, embeds, positions) -> tuple:
        """Return embeds and positions padded with zeros and the last position, where equal shapes matter."""
        num_new = embeds.shape[1]
        size = bucketed_length(num_new)
        if self.is_key_visible is not None:  # its width is the capacity, which must then stay
            size = min(size, self.cache.capacity - self.cache.length)
        if size <= num_new:
            return embeds, positions
        self.cache.reserve(self.cache.length + size)
        rows, more = embeds.shape[0], size - num_new
        embeds = paddle.concat([embeds, paddle.zeros([rows, more, embeds.shape[2]], dtype=embeds.dtype)], axis=1)
        return embeds, paddle.concat([positions, positions[:, -1:].expand([rows, more])], axis=1)

    def _set_visible(self, visible: np.ndarray) -> None:
        """Hide all other positions, bool [B, capacity], from each row."""
        self._visible = None if visible.all() else visible
        self.is_key_visible = None if self._visible is None else paddle.to_tensor(visible)


class AnswerRow(Protocol):
    """A row of a batch whose answer is being decoded."""

    is_open: bool

    def take(self, logits: np.ndarray) -> int:
        """Choose the next token from logits [vocab], append it to the answer, and return it."""


def decode_rows(engine: Engine, logits: np.ndarray, lengths: Sequence[int], rows: Sequence[AnswerRow]) -> None:
    """Decode all rows in lockstep until all are finished.

    logits: [B, vocab] after the prompts; lengths: of the prompts. A finished row stays until half of the rows are
    finished, so that few batch sizes occur. It reads its last position again and again, and the result is not used.
    """
    rows, positions = list(rows), np.array(lengths)
    tokens = np.zeros(len(rows), dtype=np.int64)
    while True:
        for place, row in enumerate(rows):
            if row.is_open:
                tokens[place] = row.take(logits[place])
        kept = kept_rows([row.is_open for row in rows])
        if not kept:
            return
        if len(kept) < len(rows):
            engine.keep_rows(kept)
            rows, tokens, positions = [rows[place] for place in kept], tokens[kept], positions[kept]
        logits = engine.read_ids(tokens, positions[:, None])
        positions = positions + [row.is_open for row in rows]


def kept_rows(is_open: Sequence[bool]) -> list[int]:
    """Return the rows to keep: half of the batch, rounded up, as often as all open rows fit into it."""
    width, num_open = len(is_open), sum(is_open)
    if not num_open:
        return []
    while width > 1 and num_open <= (width + 1) // 2:
        width = (width + 1) // 2
    first = sorted(range(len(is_open)), key=lambda row: not is_open[row])
    return sorted(first[:width])
