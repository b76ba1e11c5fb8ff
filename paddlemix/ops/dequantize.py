"""Dequantization on the device: from the codes of `quantize` to weights.

The plain version uses only operations that Ascend has kernels for: casts, gather of float32 by int32, multiply, add,
reshape. No shifts are needed: a table maps each byte to its two values. On a CPU, loops that numba compiles are faster.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import _C_ops

from .compiled_loops import has_numba, run, threads_for
from .kernel_checks import agrees, name_of
from .quantize import BLOCK, DYNAMIC, NF4_PAIRS, Codes, Int8Codes, Nf4Codes, quantize


def on_device(codes: Codes) -> Codes:
    """Return codes as tensors on the current device."""
    arrays = {item.name: getattr(codes, item.name) for item in dataclasses.fields(codes)}
    tensors = {name: paddle.to_tensor(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(codes, **tensors)


def dequantize(codes: Codes, dtype, *more: Codes):
    """Return the weight [out, in]; computed in float32, then rounded to dtype. more: of weights to put below it."""
    parts = [codes, *more]
    if all(is_for_loops(part) for part in parts) and has_loop(kind_of_codes(codes)):
        weight = weights_of(parts)
        return weight if name_of(dtype) == "float32" else weight.astype(dtype)
    weights = [plain_dequantize(part, dtype) for part in parts]
    return weights[0] if len(weights) == 1 else paddle.concat(weights)


def plain_dequantize(codes: Codes, dtype):
    """Return what `dequantize` does, by plain operations."""
    if isinstance(codes, Int8Codes):
        return (codes.codes.astype("float32") * codes.scales.unsqueeze(1)).astype(dtype)
    pairs, _ = _tables(paddle.get_device())
    values = _look_up(pairs, codes.codes).reshape([-1, BLOCK]) * _block_scales(codes)
    size = math.prod(codes.shape)
    values = values.reshape([-1])
    values = values if values.shape[0] == size else values[:size]
    return values.reshape(list(codes.shape)).astype(dtype)


def kind_of_codes(codes: Codes) -> str:
    return "int8" if isinstance(codes, Int8Codes) else "nf4"


def tensors_of(codes: Codes) -> tuple:
    """Return the tensors of codes in the order of a job of `row_kernels`."""
    if isinstance(codes, Int8Codes):
        return codes.codes, codes.scales
    return codes.codes, codes.scale_codes, codes.group_scales, codes.offset


def is_for_loops(codes: Codes) -> bool:
    """Return whether `weights_of` can dequantize codes: on a CPU, in whole blocks."""
    is_whole = isinstance(codes, Int8Codes) or (math.prod(codes.shape) % BLOCK == 0 and codes.has_whole_groups)
    return is_whole and codes.codes.place.is_cpu_place()


@functools.cache
def has_loop(kind: str) -> bool:
    """Return whether numba is there and its loop computes the same weights as plain operations."""
    if not has_numba():
        return False
    codes = on_device(quantize(np.random.default_rng(2).standard_normal([72, 18 * BLOCK]).astype(np.float32), kind))

    def kernel(x):
        return weights_of([codes]) * x

    def plain(x):
        return plain_dequantize(codes, x.dtype) * x

    return agrees(f"numba's dequantization of {kind}", kernel, plain, [[1]], "float32", has_gradient=False)


def weights_of(parts: Sequence[Codes]):
    """Return the weights [out, in] of codes on the CPU, one below the other, in float32. Requires `has_loop`."""
    num_in = parts[0].shape[1]
    result = _C_ops.empty([sum(codes.shape[0] for codes in parts), num_in], paddle.float32, paddle.CPUPlace())
    place = result.data_ptr()
    for codes in parts:
        size = math.prod(codes.shape)
        width = num_in if isinstance(codes, Int8Codes) else BLOCK
        addresses = [tensor.data_ptr() for tensor in tensors_of(codes)]
        threads = threads_for(size)
        run(f"{kind_of_codes(codes)}_weights", [0, width, size // width, 0], [0, place, *addresses], threads)
        place += 4 * size
    return result


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
