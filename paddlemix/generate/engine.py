"""Reads tokens into a cache and gives the logits of what comes next. Knows no text and no turns.

Where a decoder turns all positions otherwise once a sequence is long (see `language.rope`), what was read is kept, to
read it once more then.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..device import bucketed_length


class Engine:
    """A model with a key-value cache for a fixed number of rows that advance in step."""

    def __init__(self, model, num_rows: int, capacity: int):
        self.model = model
        self.cache = model.language_model.new_cache(num_rows, capacity)
        self.is_key_visible = None
        self._has_memory = model.language_model.rope_scales.has_two
        self._memory: list[tuple] = []  # (start, embeds, position ids) of pieces of what the cache holds

    @property
    def length(self) -> int:
        return self.cache.length

    def hide_padding(self, is_real: np.ndarray) -> None:
        """Keep the padding of a prompt out of every row's sight. is_real: bool [B, prompt length]."""
        visible = np.ones([is_real.shape[0], self.cache.capacity], dtype=bool)
        visible[:, : is_real.shape[1]] = is_real
        self.is_key_visible = None if visible.all() else paddle.to_tensor(visible)

    def read(self, embeds, position_ids: np.ndarray) -> np.ndarray:
        """Append embeds [B, T, H] at position_ids [B, T]; return the last position's logits, float32 [B, vocab]."""
        language = self.model.language_model
        with paddle.no_grad():
            positions = paddle.to_tensor(np.asarray(position_ids, dtype=np.int64))
            if self._has_memory:
                embeds, positions = self._with_memory(embeds, positions)
            num_new = embeds.shape[1]
            embeds, positions = self._padded(embeds, positions)
            hidden = language.forward_cached(embeds, positions, self.cache, is_key_visible=self.is_key_visible)
            # What padding left behind the last position is hidden from all that follow, until they take its places.
            self.cache.trim(self.cache.length - embeds.shape[1] + num_new)
            return language.logits(hidden[:, num_new - 1]).astype("float32").numpy()

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

    def read_ids(self, token_ids: list[int], position_ids: np.ndarray) -> np.ndarray:
        """Append one token a row; return logits float32 [B, vocab]."""
        ids = paddle.to_tensor(np.asarray(token_ids, dtype=np.int64).reshape([-1, 1]))
        with paddle.no_grad():
            return self.read(self.model.language_model.embed_tokens(ids), position_ids)

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
