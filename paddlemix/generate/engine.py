"""Reads tokens into a cache and gives the logits of what comes next. Knows no text and no turns.

Where a decoder turns all positions otherwise once a sequence is long (see `language.rope`), what was read is kept, to
read it once more then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from ..device import bucketed_length
from ..models.rows import take_shifted


class Engine:
    """A model with a key-value cache for rows that advance in step. num_passes counts the passes through the model."""

    def __init__(self, model, num_rows: int, capacity: int):
        self.model = model
        self.cache = model.language_model.new_cache(num_rows, capacity)
        self.is_key_visible = None
        self.num_passes = 0
        self._visible: np.ndarray | None = None
        self._has_memory = model.language_model.rope_scales.has_two
        self._memory: list[tuple] = []  # (start, embeds, position ids) of pieces of what the cache holds

    @property
    def length(self) -> int:
        return self.cache.length

    @property
    def has_plain_cache(self) -> bool:
        """Tell if the cache is all there is to know of the places read: no padding, nothing kept to be read again."""
        return self.is_key_visible is None and not self._has_memory

    def hide_padding(self, is_real: np.ndarray) -> None:
        """Keep the padding of a prompt out of every row's sight. is_real: bool [B, prompt length]."""
        visible = np.ones([is_real.shape[0], self.cache.capacity], dtype=bool)
        visible[:, : is_real.shape[1]] = is_real
        self._show(visible)

    def take_rows(self, rows: Sequence[int], shifts: Sequence[int], length: int) -> None:
        """Go on with copies of these rows, each moved up by its shift, of which the first `length` places count.

        What is padding then must be hidden anew.
        """
        self.cache.take_rows(rows, shifts, length)
        if self._memory:
            _, *columns = zip(*self._memory, strict=True)
            whole = (paddle.concat(pieces, axis=1) for pieces in columns)
            self._memory = [(0, *(take_shifted(pieces, rows, shifts, length, axis=1) for pieces in whole))]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self.take_rows(rows, [0] * len(rows), self.length)
        if self._visible is not None:
            self._show(self._visible[list(rows)])

    def read(self, embeds, position_ids: np.ndarray) -> np.ndarray:
        """Append embeds [B, T, H] at position_ids [B, T]; return the last position's logits, float32 [B, vocab]."""
        with paddle.no_grad():
            hidden, num_new = self._read(embeds, position_ids)
            return self.model.language_model.logits(hidden[:, num_new - 1]).astype("float32").numpy()

    def _padded(self, embeds, positions) -> tuple:
        """Return embeds and positions with zeros and the last position behind them, where equal shapes matter."""
        num_new = embeds.shape[1]
        size = bucketed_length(num_new)
        if self.is_key_visible is not None:  # it is as wide as the capacity, which must then stay
            size = min(size, self.cache.capacity - self.cache.length)
        if size <= num_new:
            return embeds, positions
        self.cache.reserve(self.cache.length + size)
        rows, more = embeds.shape[0], size - num_new
        embeds = paddle.concat([embeds, paddle.zeros([rows, more, embeds.shape[2]], dtype=embeds.dtype)], axis=1)
        return embeds, paddle.concat([positions, positions[:, -1:].expand([rows, more])], axis=1)

    def read_ids(self, token_ids: Sequence[int], position_ids: np.ndarray) -> np.ndarray:
        """Append one token a row; return logits float32 [B, vocab]."""
        return self.read(self._embed(np.reshape(token_ids, [-1, 1])), position_ids)

    def read_several(self, token_ids: Sequence[int], start: int) -> np.ndarray:
        """Append tokens to the only row, at positions from `start` on; return the logits of each, [T, vocab]."""
        number = len(token_ids)
        with paddle.no_grad():
            hidden, end = self._read(
                self._embed(np.reshape(token_ids, [1, -1])), np.arange(start, start + number)[None]
            )
            return self.model.language_model.logits(hidden[0, end - number : end]).astype("float32").numpy()

    def is_read_alike(self, start: int, end: int) -> bool:
        """Tell if the position `start` is read as alone when all up to `end` are read with it, see `language.rope`."""
        limit = self.model.language_model.rope_scales.limit
        return limit is None or (start + 1 > limit) == (end > limit)

    def _embed(self, token_ids: np.ndarray):
        with paddle.no_grad():
            return self.model.language_model.embed_tokens(paddle.to_tensor(token_ids.astype(np.int64)))

    def _read(self, embeds, position_ids: np.ndarray) -> tuple:
        """Return hidden states and how many of them count: those of the places appended, or of all, read again."""
        positions = paddle.to_tensor(np.asarray(position_ids, dtype=np.int64))
        if self._has_memory:
            embeds, positions = self._with_memory(embeds, positions)
        num_new = embeds.shape[1]
        embeds, positions = self._padded(embeds, positions)
        self.num_passes += 1
        forward = self.model.language_model.forward_cached
        hidden = forward(embeds, positions, self.cache, is_key_visible=self.is_key_visible)
        # What padding left behind the last position is hidden from all that follow, until they take its places.
        self.cache.trim(self.cache.length - embeds.shape[1] + num_new)
        return hidden, num_new

    def _show(self, visible: np.ndarray) -> None:
        """Let each row see these places, bool [B, capacity], of what it holds."""
        self._visible = None if visible.all() else visible
        self.is_key_visible = None if self._visible is None else paddle.to_tensor(visible)

    def _with_memory(self, embeds, positions) -> tuple:
        """Return what has to be read: the next positions, or all of them, with the cache emptied for it."""
        memory, length = self._memory, self.cache.length
        while memory and memory[-1][0] >= length:  # the cache was trimmed
            memory.pop()
        if memory:
            start, *last = memory[-1]
            memory[-1] = (
                start,
                *(piece[:, : length - start] if start + piece.shape[1] > length else piece for piece in last),
            )
        memory.append((length, embeds, positions))
        if not self.model.language_model.must_read_again(positions, embeds.shape[1], self.cache):
            return embeds, positions
        self.cache.trim(0)
        _, *columns = zip(*memory, strict=True)
        whole = tuple(paddle.concat(pieces, axis=1) for pieces in columns)
        self._memory = [(0, *whole)]
        return whole
