"""Load the model of a server, on the card of this process, with an engine for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...checkpoints.card_processes import Loading, loaded
from ...checkpoints.processor import LlavaProcessor
from ...checkpoints.source import open_source
from ...device import available_kinds, num_devices
from ...generate.engine import Engine
from ...generate.features import MAX_BYTES as FEATURE_BYTES
from ...generate.features import FeatureStore
from ...generate.prefix_store import MAX_BYTES as PREFIX_BYTES
from ...generate.slots import places_in
from ...hub.resolve import resolve
from ..settings import ModelOptions


@contextlib.contextmanager
def loaded_engine(options: ModelOptions) -> Iterator[tuple[Engine, LlavaProcessor]]:
    """Yield the engine and the processor of a server's model, which other processes share if it has several cards.

    Raises ValueError or OSError for what a user can cause.
    """
    source = open_source(resolve(options.model_path), options.model_base)
    device = options.device
    if options.num_cards == 1:
        device = own_device(device, options.worker, options.num_workers)
    loading = Loading(options.model_base, options.conv_mode, options.dtype, device, options.quantization)
    with loaded(options.num_cards, source, loading, options.worker, options.num_workers) as (model, processor):
        yield new_engine(model, options), processor


def own_device(device: str | None, worker: int, num_workers: int) -> str | None:
    """Return the device of one of several processes: a card each if there are enough, else in turn.

    A device with a number is for all of them. What is not there is returned as it is, for an error when it is used.
    """
    kind = device or available_kinds()[0]
    if num_workers == 1 or kind == "cpu" or ":" in kind or not num_devices(kind):
        return device
    return f"{kind}:{worker % num_devices(kind)}"


def new_engine(model, options: ModelOptions) -> Engine:
    """Return an engine with the memory that the options allow. Raises ValueError if that is too little."""
    prefix_bytes, feature_bytes, max_places = PREFIX_BYTES, FEATURE_BYTES, None
    if options.cache_bytes is not None:
        # As much again for what has left the cache, most of it for keys and values.
        prefix_bytes, feature_bytes = options.cache_bytes * 3 // 4, options.cache_bytes // 4
        try:
            max_places = places_in(model, options.cache_bytes)
        except ValueError as error:
            raise ValueError(f"--cache-gb is too small: {error}") from None
    features = FeatureStore(feature_bytes)
    return Engine(
        model, max_slots=options.max_running, max_places=max_places, prefix_bytes=prefix_bytes, features=features
    )
