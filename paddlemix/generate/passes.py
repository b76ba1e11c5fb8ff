"""Forward passes through the decoder, from the keys of sequences in the slots of a cache to logits on the host."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import paddle

from ..models.fast_decoder import decoder_for
from ..models.kv_cache import Run
from .cache_keys import embed_keys
from .sampler import Highest, highest_of
from .sequence import Sequence
from .slots import Slots

Logits = np.ndarray | list[Highest]  # of one position each, in order


class Passes:
    """The ways through a model's decoder. A pass changes no length of the cache."""

    def __init__(self, model, slots: Slots):
        self.model, self.slots = model, slots
        self.decoder = decoder_for(model.language_model)
        self.is_on_card = paddle.get_device() != "cpu"

    def use_weights(self) -> None:
        """Follow a change of the model's weights."""
        self.decoder = decoder_for(self.model.language_model)

    def decode(self, running: list[Sequence]) -> Logits:
        """Return logits [slots, vocab] after the last key of each sequence, by slot."""
        tokens = np.zeros([self.slots.cache.num_slots], dtype=np.int64)
        for sequence in running:
            tokens[sequence.slot] = sequence.keys[-1]
        embeds = self.model.language_model.embed_tokens(paddle.to_tensor(tokens))
        return self._logits(self.decoder.decode(embeds, self.slots.cache), running)

    def decode_guessed(self, guesses: dict[Sequence, list[int]]) -> tuple[Logits, list[Run]]:
        """Return logits after the last key of each sequence and after each of its guesses, and the runs they are of."""
        starts = [self.slots.cache.lengths[sequence.slot] for sequence in guesses]
        counts = [1 + len(tokens) for tokens in guesses.values()]
        runs = [Run(seq.slot, start, n, n) for seq, start, n in zip(guesses, starts, counts, strict=True)]
        ids = [token for sequence, tokens in guesses.items() for token in (sequence.keys[-1], *tokens)]
        embeds = self.model.language_model.embed_tokens(paddle.to_tensor([ids], dtype="int64"))
        return self._logits(self.decoder.prefill(embeds, runs, self.slots.cache), guesses), runs

    def prefill(self, runs: dict[Sequence, Run]) -> Logits | None:
        """Compute positions of prompts. Return logits after those that complete their prompt, None if none does."""
        parts = [
            embed_keys(self.model, sequence.keys[run.start : run.end], sequence.features)
            for sequence, run in runs.items()
        ]
        embeds = paddle.concat(parts, axis=1) if len(parts) > 1 else parts[0]
        hidden = self.decoder.prefill(embeds, list(runs.values()), self.slots.cache)
        return None if hidden is None else self._logits(hidden, runs)

    def _logits(self, hidden, sequences: Iterable[Sequence]) -> Logits:
        """Return the logits after each position, or on a card the highest ones if that is all these sequences need."""
        logits = self.decoder.logits(hidden)
        num_known = {sequence.ending.num_known for sequence in sequences}
        needs_highest = all(sequence.sampler.needs_highest_only for sequence in sequences)
        if self.is_on_card and needs_highest and len(num_known) == 1:
            return highest_of(logits[:, : num_known.pop()])
        return logits.astype("float32").numpy()
