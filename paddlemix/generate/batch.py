"""Generation for a batch of token ids and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..constants import IMAGE_TOKEN_ID
from ..data.sample import Batch
from ..image.anyres import num_image_tokens
from ..image.tiles import ImageTiles, content_key
from ..models.image_features import check_counts, check_tiles
from .cache_keys import Key, keys_of
from .decode import continue_rows
from .prompts import read_prompts
from .sampling import Sampler, SamplingParams


class IdRow:
    """The new ids of a row, up to one of `stops` or as many as `budget`."""

    def __init__(self, sampling: SamplingParams, stops: set[int], budget: int):
        self.sampler = Sampler(sampling)
        self.stops = stops
        self.budget = budget
        self.token_ids: list[int] = []
        self.is_open = True

    def take(self, logits: np.ndarray) -> int:
        token = self.sampler(logits)
        self.token_ids.append(token)
        self.is_open = token not in self.stops and len(self.token_ids) < self.budget
        return token


def generate(
    model, batch: Batch, sampling: SamplingParams | None = None, *, shares_prefixes: bool = True
) -> list[list[int]]:
    """Return the new ids of each row, its end token included.

    Rows may have any length and any pictures, and are answered as each alone would be: what was padding stays unseen,
    each row counts its own positions and draws from its own random state, and leaves when it is done. What rows begin
    with in common is read once (shares_prefixes). Raises ValueError when a prompt leaves no room in the context, and
    for packed rows. `sampling.stop` is for text, see `requests.answer_all`; `sampling.lookup` is not used.
    """
    sampling = sampling or SamplingParams()
    prompts = [np.asarray(ids)[is_real] for ids, is_real in zip(batch.token_ids, real_places(batch), strict=True)]
    context = model.config.language.max_position_embeddings
    longest = max(map(len, prompts))
    if longest >= context:
        raise ValueError(f"the longest prompt has {longest} tokens, but the context holds {context}: shorten it")
    stops = set() if sampling.ignore_eos else set(model.config.eos_token_ids)
    rows = [IdRow(sampling, stops, min(sampling.max_new_tokens, context - len(ids))) for ids in prompts]
    room = max(row.budget for row in rows)
    with eval_mode(model):
        keys, pictures = _keys(model, batch, prompts)
        engine, logits = read_prompts(model, keys, pictures, room, shares_prefixes=shares_prefixes)
        continue_rows(engine, logits, [len(ids) for ids in prompts], rows)
    return [row.token_ids for row in rows]


@contextmanager
def eval_mode(model) -> Iterator[None]:
    """Bring a model to eval mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def real_places(batch: Batch) -> np.ndarray:
    """Return where a row is not padding, bool [B, T]. Raises ValueError for a row with several segments or none."""
    segments = np.asarray(batch.segment_ids)
    if (segments > 1).any() or not (segments > 0).any(axis=1).all():
        raise ValueError("generation needs exactly one sequence a row: segment_ids of 1, and 0 for padding")
    return segments > 0


def _keys(model, batch: Batch, prompts: list[np.ndarray]) -> tuple[list[list[Key]], dict[str, ImageTiles]]:
    """Return the keys of each row, and the pictures by content key. Raises ValueError where ids and pictures differ."""
    ids = np.asarray(batch.token_ids)
    model.check_ids(ids)
    pictures = _pictures(model, batch)
    check_counts(ids, [picture.num_tokens for picture in pictures])
    named = [(content_key(picture), picture) for picture in pictures]
    rows, start = [], 0
    for prompt in prompts:
        num_places, end = int((prompt == IMAGE_TOKEN_ID).sum()), start
        while num_places > 0:
            num_places -= pictures[end].num_tokens
            end += 1
        rows.append(keys_of(prompt.tolist(), named[start:end]))
        start = end
    return rows, dict(named)


def _pictures(model, batch: Batch) -> list[ImageTiles]:
    if batch.pixels is None:
        return []
    counts = [int(count) for count in batch.tiles_per_image]
    check_tiles(counts, len(batch.pixels))
    ends = np.cumsum(counts)
    sizes = [(int(width), int(height)) for width, height in batch.image_sizes]
    return [
        ImageTiles(np.asarray(batch.pixels)[end - count : end], size, num_image_tokens(size, model.config.image))
        for end, count, size in zip(ends, counts, sizes, strict=True)
    ]
