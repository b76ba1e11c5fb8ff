"""Draw by a keyed hash: the same for the same seed on every machine, and independent of all other rows."""

from __future__ import annotations

from hashlib import blake2b

SEED_LIMIT = 1 << 64


def draw(seed: int, key: str) -> float:
    """Return a number from 0 up to 1 that a key has with a seed."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=(seed % SEED_LIMIT).to_bytes(8, "big"))
    return (int.from_bytes(digest.digest(), "big") >> 11) / (1 << 53)
