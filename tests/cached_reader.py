"""Logits after the rows of a key-value cache, for comparisons with passes over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from paddlemix.models.fast_decoder import decoder_for
from paddlemix.models.kv_cache import Run


class CachedReader:
    """A decoder with a cache, a slot for each row. lengths: how long rows can become, see `language.positions`."""

    def __init__(self, model, num_rows: int, capacity: int, lengths: Sequence[int] | None = None):
        self.language = model.language_model
        self.decoder = decoder_for(self.language)
        self.cache = self.language.new_cache(num_rows, capacity)
        self.cache.is_long = list(self.language.rotary.choose(lengths or [capacity] * num_rows))

    @property
    def length(self) -> int:
        """The length of the longest row."""
        return max(self.cache.lengths)

    def trim(self, length: int) -> None:
        """Forget everything from position `length` on, in all rows."""
        self.cache.lengths = [length] * self.cache.num_slots

    def read(self, embeds) -> np.ndarray:
        """Append embeds [rows, T, H]; return the last position's logits, float32 [rows, vocab]."""
        number = embeds.shape[1]
        if number > 1:
            return self.read_all(embeds, num_outputs=1)[:, 0]
        with paddle.no_grad():
            logits = self.decoder.logits(self.decoder.decode(embeds[:, 0], self.cache))
        self.cache.lengths = [length + 1 for length in self.cache.lengths]
        return logits.astype("float32").numpy()

    def read_all(self, embeds, num_outputs: int | None = None) -> np.ndarray:
        """Append embeds [rows, T, H]; return logits of the last num_outputs positions, [rows, num_outputs, vocab]."""
        rows, number, width = embeds.shape
        wanted = num_outputs or number
        runs = [Run(slot, start, number, wanted) for slot, start in enumerate(self.cache.lengths)]
        with paddle.no_grad():
            hidden = self.decoder.prefill(embeds.reshape([1, rows * number, width]), runs, self.cache)
            logits = self.decoder.logits(hidden).astype("float32").numpy()
        self.cache.lengths = [run.end for run in runs]
        return logits.reshape([rows, wanted, -1])

    def read_ids(self, token_ids: Sequence[int]) -> np.ndarray:
        """Append one token a row; return logits float32 [rows, vocab]."""
        ids = np.reshape(token_ids, [-1, 1]).astype(np.int64)
        with paddle.no_grad():
            return self.read(self.language.embed_tokens(paddle.to_tensor(ids)))
