"""The features of pictures that were encoded last, so that no picture is encoded twice in a row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

MAX_BYTES = 256 * 1024 * 1024  # about 50 pictures of LLaVA 1.5 or 11 of 1.6, with 7B parameters in 16 bits


class FeatureCache:
    """Features by the content key of their picture; the ones used longest ago leave when there are too many bytes.

    It hangs on a model and is shared by all sessions and requests, also of several threads. It holds features of the
    weights as they are: training clears it, see `LlavaForConditionalGeneration.training`; whoever changes weights
    of the tower or the projector of a model in eval mode must call `clear`.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self._features: OrderedDict[str, Any] = OrderedDict()
        self._num_bytes = 0
        self._epoch = 0
        self._lock = threading.Lock()

    def __reduce__(self):
        """Copy and pickle as an empty cache: a lock can be neither, and the copy's weights may become others."""
        return FeatureCache, (self.max_bytes,)

    def __contains__(self, name: str) -> bool:
        return name in self._features

    def __len__(self) -> int:
        return len(self._features)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def fetch(self, names: Sequence[str], encode: Callable[[list[str]], Sequence[Any]]) -> dict[str, Any]:
        """Return the features of these pictures; `encode` makes those that are not held, each once."""
        wanted = list(dict.fromkeys(names))
        with self._lock:
            epoch = self._epoch
            found = {name: self._features[name] for name in wanted if name in self._features}
        missing = [name for name in wanted if name not in found]
        if missing:  # outside the lock, so that others go on; two may then encode the same, and agree
            found.update(zip(missing, encode(missing), strict=True))
        with self._lock:
            if epoch == self._epoch:  # otherwise these are features of former weights
                self._keep(found)
        return found

    def drop(self, name: str) -> None:
        """Forget a picture, if it is held."""
        with self._lock:
            self._remove(name)

    def clear(self) -> None:
        with self._lock:
            self._epoch += 1
            self._features.clear()
            self._num_bytes = 0

    def _keep(self, found: dict[str, Any]) -> None:
        for name, features in found.items():
            self._remove(name)
            self._features[name] = features
            self._num_bytes += _size(features)
        while self._num_bytes > self.max_bytes:
            self._remove(next(iter(self._features)))

    def _remove(self, name: str) -> None:
        features = self._features.pop(name, None)
        if features is not None:
            self._num_bytes -= _size(features)


def _size(features) -> int:
    """Return the bytes of a tensor."""
    return int(features.size) * features.element_size()
