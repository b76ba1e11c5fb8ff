"""Dequantization on the device: from the codes of `quantize` to weights.

Uses only operations that Ascend has kernels for: casts, gather of float32 by int32, multiply, add, reshape. No shifts
are needed: a table maps each byte to its two values.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import paddle

from .quantize import BLOCK, DYNAMIC, NF4_PAIRS, Codes, Int8Codes, Nf4Codes


def on_device(codes: Codes) -> Codes:
    """Return codes as tensors on the current device."""
    arrays = {item.name: getattr(codes, item.name) for item in dataclasses.fields(codes)}
    tensors = {name: paddle.to_tensor(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(codes, **tensors)


def dequantize(codes: Codes, dtype):
    """Return the weight [out, in]; computed in float32, then rounded to dtype."""
    if isinstance(codes, Int8Codes):
        return (codes.codes.astype("float32") * codes.scales.unsqueeze(1)).astype(dtype)
    pairs, _ = _tables(paddle.get_device())
    values = _look_up(pairs, codes.codes).reshape([-1, BLOCK]) * _block_scales(codes)
    size = math.prod(codes.shape)
    values = values.reshape([-1])
    values = values if values.shape[0] == size else values[:size]
    return values.reshape(list(codes.shape)).astype(dtype)


def num_bytes(codes: Codes) -> int:
    """Return the size of codes and scales in bytes."""
    values = (getattr(codes, item.name) for item in dataclasses.fields(codes))
    return sum(math.prod(value.shape) * value.element_size() for value in values if isinstance(value, paddle.Tensor))


def _block_scales(codes: Nf4Codes):
    """Return float32 [blocks, 1]."""
    _, dynamic = _tables(paddle.get_device())
    groups = _look_up(dynamic, codes.scale_codes).reshape(codes.scale_codes.shape)
    scales = (groups * codes.group_scales.unsqueeze(1) + codes.offset).reshape([-1, 1])
    num_blocks = codes.codes.shape[0]
    return scales if scales.shape[0] == num_blocks else scales[:num_blocks]


def _look_up(table, codes):
    """Return the entries of a table for uint8 codes, flattened."""
    return paddle.gather(table, codes.reshape([-1]).astype("int32"))


@functools.cache
def _tables(device: str):
    """Return NF4_PAIRS and DYNAMIC on a device."""
    return paddle.to_tensor(NF4_PAIRS), paddle.to_tensor(DYNAMIC)
