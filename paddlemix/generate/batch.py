"""Generation for a batch of token ids and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..constants import IMAGE_TOKEN_ID
from ..data.sample import Batch
from ..image.anyres import num_image_tokens
from ..image.preprocess import ImageTiles, content_key
from ..models.image_features import check_counts, check_tiles
from .cache_keys import Key, keys_of
from .engine import decode_rows
from .features import cache_of, encode_missing
from .prompts import read_prompts
from .sampling import Sampler, SamplingParams


@dataclass(eq=False)
class IdRow:
    """A row's new ids, up to one of `stops` or to its budget."""

    sampler: Sampler
    stops: set[int]
    budget: int
    token_ids: list[int] = field(default_factory=list)
    is_open: bool = True

    def take(self, logits: np.ndarray) -> int:
        token = self.sampler(logits)
        self.token_ids.append(token)
        self.is_open = token not in self.stops and len(self.token_ids) < self.budget
        return token


def generate(
    model, batch: Batch, sampling: SamplingParams | None = None, *, shares_prefixes: bool = True
) -> list[list[int]]:
    """Return the new ids of each row, its end token included.

    Rows may have any length and any images. Each row is answered as it would be alone: padding is hidden, and each row
    has its own positions and random state. Rows leave the batch when they are finished. Common prefixes are read once
    (shares_prefixes). Raises ValueError if a prompt leaves no room in the context, and for packed rows.
    `sampling.stop` applies to text only, see `requests.answer_each`; `sampling.lookup` is not used.
    """
    sampling = sampling or SamplingParams()
    prompts = [np.asarray(ids)[is_real] for ids, is_real in zip(batch.token_ids, real_places(batch), strict=True)]
    context = model.config.language.max_position_embeddings
    longest = max(map(len, prompts))
    if longest >= context:
        raise ValueError(f"the longest prompt has {longest} tokens, but the context holds {context}: shorten it")
    stops = set() if sampling.ignore_eos else set(model.config.eos_token_ids)
    rows = [IdRow(Sampler(sampling), stops, min(sampling.max_new_tokens, context - len(ids))) for ids in prompts]
    with eval_mode(model):
        keys, images = _keys(model, batch, prompts)
        features, budgets = encode_missing(model, images, cache_of(model)), [row.budget for row in rows]
        engine, logits = read_prompts(model, keys, features, budgets, shares_prefixes=shares_prefixes)
        decode_rows(engine, logits, [len(ids) for ids in prompts], rows)
    return [row.token_ids for row in rows]


@contextmanager
def eval_mode(model) -> Iterator[None]:
    """Switch a model to eval mode for the duration of a block."""
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
    """Return the keys of each row, and the images by content key. Raises ValueError if ids and images do not match."""
    ids = np.asarray(batch.token_ids)
    model.check_ids(ids)
    images = _images(model, batch)
    check_counts(ids, [image.num_tokens for image in images])
    named = [(content_key(image), image) for image in images]
    rows, start = [], 0
    for prompt in prompts:
        num_places, end = int((prompt == IMAGE_TOKEN_ID).sum()), start
        while num_places > 0:
            num_places -= images[end].num_tokens
            end += 1
        rows.append(keys_of(prompt.tolist(), named[start:end]))
        start = end
    return rows, dict(named)


def _images(model, batch: Batch) -> list[ImageTiles]:
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
