"""Linear layers of a decoder for one position a slot, with the fastest way to multiply a row found by measurement.

A product of one row is as fast as its weight is read. MKL computes some of them with one thread, whatever the number
of threads, but a batch of products with all of them. Which way is faster depends on the processor, its memory, the
shape, and on what else is running: threads that have to wait for each other are slow where other programs take cores.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import paddle
from paddle import _C_ops, nn

from ...device import num_threads
from ...ops.compiled_loops import has_numba
from ...ops.row_products import has_kernel, product_with_codes, row_times_weight
from ..quantized import QuantizedLinear
from .threads import limit_threads

VARIABLE = "PADDLEMIX_ROW_PRODUCT"  # the name of a way, in place of the measurement
PLAIN, ALONE, LOOPS = "plain", "1 thread", "numba"
SMALL = 1 << 18  # elements of a weight up to which more threads do not pay
MAX_BLOCKS = 16
NUM_ROUNDS = 3
ROUND_BYTES = 48 << 20  # of weights to multiply in a round: more than most caches hold
MAX_SECONDS = 0.03  # after which no further round starts
MIN_GAIN = 1.05  # by which a way must be faster than the plain product


@dataclass(frozen=True)
class Weights:
    """Weights of one shape, to measure with.

    is_transposed: they are [out, in], as a head that shares its weight with the embeddings. may_compile: see `choose`.
    """

    shape: tuple[int, int]
    is_transposed: bool
    may_compile: bool
    num_threads: int
    samples: list = field(compare=False, repr=False)


@dataclass(frozen=True)
class Choice:
    """The way in which rows are multiplied with weights of a shape, and the bytes a second of each way tried."""

    shape: tuple[int, int]
    way: str
    speeds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {speed / 1e9:.1f} GB/s" for name, speed in self.speeds.items())
        return f"a row with a weight of {self.shape[0]:,} x {self.shape[1]:,}: {self.way}" + f" ({tried})" * bool(tried)


class Projection:
    """A linear layer. Plain ones are computed from their weights without Python functions; others are called."""

    def __init__(self, layer: nn.Layer):
        self.layer = layer
        self.is_plain = type(layer) is nn.Linear
        self.has_codes = type(layer) is QuantizedLinear and layer.adapter is None
        self.weight, self.bias = (layer.weight, layer.bias) if self.is_plain else (None, None)
        self._multiply = multiply

    def use(self, choice: Choice) -> None:
        """Multiply single rows in the way that was chosen."""
        self._multiply = ways(*choice.shape, is_transposed=False)[choice.way]

    def __call__(self, rows):
        """Return the layer's output for rows [N, in]."""
        if not self.is_plain:
            return self.layer(rows)
        product = _C_ops.matmul(rows, self.weight, False, False)
        return product if self.bias is None else _C_ops.add_(product, self.bias)

    def few(self, rows):
        """Return the same for one row, or a few."""
        if not self.is_plain or rows.shape[0] > 1:
            return self(rows)
        product = self._multiply(rows, self.weight)
        return product if self.bias is None else _C_ops.add_(product, self.bias)


def few_rows(parts: Sequence[Projection], rows) -> list:
    """Return the outputs of layers for the same input, one row or a few [N, in]; by one product if all have codes."""
    if len(parts) > 1 and all(part.has_codes for part in parts):
        codes = [part.layer.codes for part in parts]
        products = _C_ops.split(product_with_codes(rows, *codes), [each.shape[0] for each in codes], 1)
        biases = (part.layer.bias for part in parts)
        return [
            product if bias is None else _C_ops.add_(product, bias)
            for product, bias in zip(products, biases, strict=True)
        ]
    return [part.few(rows) for part in parts]


def multiply(row, weight):
    return _C_ops.matmul(row, weight, False, False)


def multiply_transposed(row, weight):
    return _C_ops.matmul(row, weight, False, True)


def multiply_alone(product: Callable, row, weight):
    """Return what a product returns, computed by the calling thread alone."""
    num_before = limit_threads(1)
    result = product(row, weight)
    limit_threads(num_before)
    return result


def multiply_blocks(blocks: int, row, weight):
    """Return row [1, K] times weight [K, N], as the sum of the products with blocks of its rows, without a copy."""
    num_in, num_out = weight.shape
    row = _C_ops.reshape(row, [blocks, 1, num_in // blocks])
    products = _C_ops.matmul(row, _C_ops.reshape(weight, [blocks, num_in // blocks, num_out]), False, False)
    return _C_ops.sum(products, [0], None, False)


def multiply_transposed_blocks(blocks: int, row, weight):
    """Return row [1, K] times the transpose of weight [N, K], as the joined products with blocks of its rows."""
    num_out, num_in = weight.shape
    rows = _C_ops.expand(row, [blocks, 1, num_in])  # with one row for all blocks, MKL would use one thread again
    products = _C_ops.matmul(rows, _C_ops.reshape(weight, [blocks, num_out // blocks, num_in]), False, True)
    return _C_ops.reshape(products, [1, num_out])


def ways(num_first: int, num_second: int, *, is_transposed: bool) -> dict[str, Callable]:
    """Return the functions (row, weight) that multiply a row with a weight [num_first, num_second], by name."""
    found = {PLAIN: multiply_transposed if is_transposed else multiply}
    if num_threads() > 1:
        found[ALONE] = functools.partial(multiply_alone, found[PLAIN])
    in_blocks = multiply_transposed_blocks if is_transposed else multiply_blocks
    numbers = (number for number in range(min(num_threads(), MAX_BLOCKS), 1, -1) if num_first % number == 0)
    for number in numbers:
        found[f"{number} blocks"] = functools.partial(in_blocks, number)
        break
    if has_numba():
        found[LOOPS] = functools.partial(row_times_weight, is_transposed=is_transposed)
    return found


def choose(weights: Sequence, *, is_transposed: bool = False, may_compile: bool = False) -> Choice:
    """Return the fastest way to multiply a row with weights of the same shape, as measured once in this process.

    may_compile: try loops, which take a second to compile.
    """
    shape = tuple(weights[0].shape)
    sample = Weights(shape, is_transposed, may_compile, num_threads(), list(weights[: _num_samples(shape)]))
    choice = _chosen(sample, os.environ.get(VARIABLE, ""))
    sample.samples.clear()  # the cache keeps the object, but must not keep a model's weights
    return choice


def _num_samples(shape: tuple[int, int]) -> int:
    return math.ceil(ROUND_BYTES / (4 * math.prod(shape)))


@functools.cache
def _chosen(weights: Weights, wanted: str) -> Choice:
    found = ways(*weights.shape, is_transposed=weights.is_transposed)
    if LOOPS in found and not ((weights.may_compile or wanted == LOOPS) and has_kernel("float32")):
        del found[LOOPS]
    if wanted or len(found) == 1 or math.prod(weights.shape) <= SMALL:
        return Choice(weights.shape, wanted if wanted in found else PLAIN)
    speeds = _measure(weights, found)
    best = max(speeds, key=speeds.__getitem__)
    return Choice(weights.shape, best if speeds[best] >= MIN_GAIN * speeds[PLAIN] else PLAIN, speeds)


def _measure(weights: Weights, found: dict[str, Callable]) -> dict[str, float]:
    """Return the bytes a second at which each way reads a weight: the median over weights and a few rounds.

    The ways alternate, and a median is not changed by the few products during which other programs took the cores.
    """
    row = paddle.ones([1, weights.shape[1 if weights.is_transposed else 0]])
    seconds: dict[str, list[float]] = {name: [] for name in found}
    _times(found[PLAIN], row, weights.samples)  # weights may come from a file only now
    end = time.perf_counter() + MAX_SECONDS
    for number in range(NUM_ROUNDS):
        if number and time.perf_counter() > end:
            break
        for name, way in found.items():
            seconds[name] += _times(way, row, weights.samples)
    num_bytes = 4 * math.prod(weights.shape)
    return {name: num_bytes / statistics.median(times) for name, times in seconds.items()}


def _times(way: Callable, row, samples: list) -> list[float]:
    times = [time.perf_counter()]
    for weight in samples:
        way(row, weight)
        times.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(times)]
