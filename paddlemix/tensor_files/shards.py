"""How weights are cut into files."""

from __future__ import annotations

import re

from .stored import StoredTensor

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def split(tensors: dict[str, StoredTensor], max_bytes: int) -> list[dict[str, StoredTensor]]:
    """Cut into shards of at most max_bytes; a tensor larger than that gets a shard of its own."""
    shards: list[dict[str, StoredTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled + tensor.num_bytes > max_bytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.num_bytes
    return shards


def parse_size(size: int | str) -> int:
    """Turn "5GB", "200MB" or a number of bytes into bytes. Raises ValueError."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]B)\s*", size.upper())
    if not match:
        raise ValueError(f"size {size!r} is not understood: expected bytes or a text such as '5GB' or '200MB'")
    return int(float(match.group(1)) * UNITS[match.group(2)])
