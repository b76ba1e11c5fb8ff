"""Generation for a batch of token ids and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..constants import IMAGE_TOKEN_ID
from ..data.sample import Batch
from ..image.anyres import num_image_tokens
from ..image.preprocess import ImageTiles, content_key
from ..models.image_features import check_counts, check_tiles
from .cache_keys import keys_of
from .engine import Engine, features_of
from .sampling import SamplingParams
from .sequence import Ending, Sequence


def generate(
    model, batch: Batch, sampling: SamplingParams | None = None, *, engine: Engine | None = None
) -> list[list[int]]:
    """Return the new ids of each row, its end token included, but none of `sampling.stop_ids`.

    Rows may have any length and any images, and each is answered as it would be alone. engine: by default a new one,
    whose cache is freed at the end. Raises ValueError if a prompt leaves no room in the context, and for packed rows.
    `sampling.stop` applies to text only, see `requests.answer_each`.
    """
    sampling = sampling or SamplingParams()
    prompts = [np.asarray(ids)[is_real] for ids, is_real in zip(batch.token_ids, real_places(batch), strict=True)]
    context = model.config.language.max_position_embeddings
    longest = max(map(len, prompts))
    if longest >= context:
        raise ValueError(f"the longest prompt has {longest} tokens, but the context holds {context}: shorten it")
    with eval_mode(model):
        sequences = _sequences(model, batch, prompts, sampling)
        (engine or Engine(model, features=features_of(model))).run(sequences)
    return [sequence.answer_ids for sequence in sequences]


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


def _sequences(model, batch: Batch, prompts: list[np.ndarray], sampling: SamplingParams) -> list[Sequence]:
    """Return a sequence for each row. Raises ValueError if ids and images do not match."""
    ids = np.asarray(batch.token_ids)
    model.check_ids(ids)
    images = _images(model, batch)
    check_counts(ids, [image.num_tokens for image in images])
    named = [(content_key(image), image) for image in images]
    ends = frozenset() if sampling.ignore_eos else frozenset(model.config.eos_token_ids)
    stops = ends.union(sampling.stop_ids)
    context = model.config.language.max_position_embeddings
    sequences, start = [], 0
    for prompt in prompts:
        num_places, end = int((prompt == IMAGE_TOKEN_ID).sum()), start
        while num_places > 0:
            num_places -= images[end].num_tokens
            end += 1
        keys, own = keys_of(prompt.tolist(), named[start:end]), dict(named[start:end])
        sequences.append(Sequence(keys, own, sampling, context - len(keys), Ending(stops, ends)))
        start = end
    return sequences


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
