"""Attention on a CPU in tiles of queries, by MKL's functions on the memory of the tensors.

A tile's scores stay in the processor's cache from the first product to the second. Nothing is copied, broadcast or
concatenated, the future is not scored, and the sums divide the outputs instead of the scores. For a gradient the scores
are computed again from the logarithms of the sums (Dao 2023), so that none of them are stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import paddle
from paddle.autograd import PyLayer

from .kernel_checks import is_trained
from .vector_math import MODERATE, VectorMath, array_of, is_moderate, is_usable, vector_math

MASKED = -1e9  # finite in float32, so that a fully masked row stays finite
FEWEST_QUERIES, FEWEST_SCORES = 8, 1 << 16  # of a task for which tiles pay
MAX_ROWS, MAX_SCORES = 384, 1 << 20  # of a tile, all heads of a group together
MIN_QUERIES, MAX_CAUSAL = 32, 128  # of a tile in each head; more score more of the future, fewer make slow products


@dataclass(frozen=True)
class Span:
    """Queries start .. end of a row of the batch, which see the keys first .. last of that row."""

    row: int
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Task:
    """What the queries of each span see: all keys, or only those up to their own position, the spans' ends aligned.

    scale: of the scores. biases: [B or 1, heads or 1, T or 1, S], added to the scores.
    """

    spans: tuple[Span, ...]
    is_causal: bool
    scale: float
    biases: tuple[np.ndarray, ...] = ()


class Tile(NamedTuple):
    """Queries of the heads of a group in a row of the batch, and the keys that at least one of them sees."""

    row: int
    heads: slice
    kv_head: int
    queries: slice
    keys: slice

    def of_queries(self, x: np.ndarray) -> np.ndarray:
        """Return the part of x [B, heads, T, D] as a matrix, [heads * queries, D]; of several heads, a copy."""
        return x[self.row, self.heads, self.queries].reshape(-1, x.shape[3])

    def of_keys(self, x: np.ndarray) -> np.ndarray:
        """Return the part of x [B, kv_heads, S, D] as a matrix, [keys, D]."""
        return x[self.row, self.kv_head, self.keys]

    def of_bias(self, x: np.ndarray) -> np.ndarray:
        """Return the part of x [B or 1, heads or 1, T or 1, S]."""
        row = self.row if x.shape[0] > 1 else 0
        heads = self.heads if x.shape[1] > 1 else slice(None)
        queries = self.queries if x.shape[2] > 1 else slice(None)
        return x[row, heads, queries, self.keys]

    def by_head(self, x: np.ndarray) -> np.ndarray:
        """Return contiguous x [heads * queries, N] as [heads, queries, N]."""
        return x.reshape(self.heads.stop - self.heads.start, -1, x.shape[1])

    def put(self, values: np.ndarray, x: np.ndarray) -> None:
        """Write a matrix [heads * queries, D] to the part of x [B, heads, T, D]."""
        x[self.row, self.heads, self.queries] = self.by_head(values)


def has_tiles(query, key, value, *biases) -> bool:
    """Return whether `tiled_attention` takes these tensors, and is worth its fixed costs."""
    is_large = pays(query.shape[1], query.shape[2], key.shape[2])
    return is_large and is_usable(query, key, value, *biases) and not is_trained(*biases)


def pays(num_heads: int, num_queries: int, num_keys: int) -> bool:
    """Return whether an attention of this size is worth the fixed costs of tiles."""
    return num_queries >= FEWEST_QUERIES and num_heads * num_queries * num_keys >= FEWEST_SCORES


def whole_rows(query, key) -> tuple[Span, ...]:
    """Return the spans of queries [B, heads, T, D] that see all keys [B, kv_heads, S, D]."""
    return tuple(Span(row, 0, query.shape[2], 0, key.shape[2]) for row in range(query.shape[0]))


def tiled_attention(query, key, value, spans: Sequence[Span], *, is_causal: bool, scale: float, biases: Sequence = ()):
    """Return the attention of the queries to the keys of their spans, [B, heads, T, D], and zeros outside of spans.

    Tensors as in `attention`, those for which `has_tiles` holds. is_causal: query i of a span with T queries and S keys
    sees the keys up to i + S - T of the span. biases: added to the scores, [B or 1, heads or 1, T or 1, S].
    """
    task = Task(tuple(spans), is_causal, scale, tuple(array_of(bias) for bias in biases))
    if is_trained(query, key, value):
        return TiledAttention.apply(query, key, value, task)
    return _forward(query, key, value, task)[0]


class TiledAttention(PyLayer):
    """Attention with its own gradient."""

    @staticmethod
    def forward(ctx, query, key, value, task: Task):
        """Return the attention; keep the logarithms of the sums instead of the weights."""
        out, ctx.log_sums = _forward(query, key, value, task)
        ctx.task = task
        # NOTE: the result refers to its gradient and so to what is kept for it. A circle without `detach`.
        ctx.save_for_backward(query, key, value, out.detach())
        return out

    @staticmethod
    def backward(ctx, grad):
        tensors = ctx.saved_tensor()
        grads = _backward(*tensors, grad.contiguous(), ctx.log_sums, ctx.task)
        return tuple(None if x.stop_gradient else each for x, each in zip(tensors, grads, strict=False))


def _forward(query, key, value, task: Task) -> tuple:
    """Return the output and the logarithms of the sums of the exponentials, float32 [B, heads, T, 1]."""
    out = paddle.zeros([*query.shape[:3], value.shape[3]], dtype="float32")
    log_sums = np.zeros([*query.shape[:3], 1], np.float32)
    mkl, (queries, keys, values, outputs) = vector_math(), map(array_of, (query, key, value, out))
    is_bounded = _is_bounded(task, queries, keys)
    rows = _num_queries(task, queries, keys)
    scratch = _scratch(task, rows * queries.shape[1] // keys.shape[1])
    for tile in _tiles(task, queries, keys, rows):
        scores = _scores(mkl, task, tile, queries, keys, scratch)
        shift = _exp(mkl, task, tile, scores, is_bounded=is_bounded)
        sums = mkl.row_sums(scores)
        part = np.empty([len(sums), values.shape[3]], np.float32)
        mkl.matmul(part, scores, tile.of_keys(values))
        part /= sums[:, None]
        tile.put(part, outputs)
        tile.put((np.log(sums) + shift)[:, None], log_sums)
    return out, log_sums


def _backward(query, key, value, out, grad, log_sums: np.ndarray, task: Task) -> tuple:
    """Return the gradients of query, key and value for the gradient of the output (Dao et al. 2022, appendix B.2)."""
    mkl, tensors = vector_math(), (query, key, value, out, grad)
    results = [paddle.zeros(x.shape, dtype="float32") for x in (query, key, value)]
    queries, keys, values, outputs, slopes = map(array_of, tensors)
    query_grad, key_grad, value_grad = map(array_of, results)
    rows = _num_queries(task, queries, keys)
    scratch, more_scratch = (_scratch(task, rows * queries.shape[1] // keys.shape[1]) for _ in range(2))
    for tile in _tiles(task, queries, keys, rows):
        weights = _scores(mkl, task, tile, queries, keys, scratch)
        mkl.add_to_rows(weights, tile.of_queries(log_sums), -1.0)
        _exp(mkl, task, tile, weights, is_shifted=True)
        slope = tile.of_queries(slopes)
        score_grad = more_scratch[: weights.size].reshape(weights.shape)
        mkl.matmul(score_grad, slope, tile.of_keys(values).T)
        mkl.add_to_rows(score_grad, np.einsum("ij,ij->i", slope, tile.of_queries(outputs)), -1.0)
        mkl.multiply(score_grad, weights)
        mkl.matmul(tile.of_keys(value_grad), weights.T, slope, kept=1.0)
        mkl.matmul(tile.of_keys(key_grad), score_grad.T, tile.of_queries(queries), task.scale, kept=1.0)
        part = np.empty_like(tile.of_queries(queries))
        mkl.matmul(part, score_grad, tile.of_keys(keys), task.scale)
        tile.put(part, query_grad)
    return tuple(results)


def _is_bounded(task: Task, queries: np.ndarray, keys: np.ndarray) -> bool:
    """Return whether every score is moderate, because no product exceeds that of the lengths of its vectors."""
    squares = (np.einsum("bhtd,bhtd->bht", x, x).max() for x in (queries, keys))
    return not task.biases and bool(abs(task.scale) * np.sqrt(np.prod(list(squares))) <= MODERATE)


def _num_queries(task: Task, queries: np.ndarray, keys: np.ndarray) -> int:
    """Return how many queries of each head a tile has."""
    group = queries.shape[1] // keys.shape[1]
    num_keys = max(span.last - span.first for span in task.spans)
    most = min(MAX_ROWS, MAX_SCORES // num_keys) // group
    return max(min(most, MAX_CAUSAL) if task.is_causal else most, MIN_QUERIES)


def _scratch(task: Task, rows: int) -> np.ndarray:
    """Return memory for the scores of a tile."""
    return np.empty(rows * max(span.last - span.first for span in task.spans), np.float32)


def _tiles(task: Task, queries: np.ndarray, keys: np.ndarray, rows: int) -> Iterator[Tile]:
    """Yield the tiles of all spans."""
    num_kv_heads = keys.shape[1]
    group = queries.shape[1] // num_kv_heads
    for span in task.spans:
        length = span.end - span.start
        size = math.ceil(length / math.ceil(length / rows))  # all tiles of about the same size
        for kv_head in range(num_kv_heads):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            for start in range(span.start, span.end, size):
                end = min(start + size, span.end)
                last = span.last - (span.end - end) if task.is_causal else span.last
                yield Tile(span.row, heads, kv_head, slice(start, end), slice(span.first, last))


def _scores(mkl: VectorMath, task: Task, tile: Tile, queries: np.ndarray, keys: np.ndarray, scratch) -> np.ndarray:
    """Return the scores of a tile with their biases, [heads * queries, keys], in scratch."""
    query, key = tile.of_queries(queries), tile.of_keys(keys)
    scores = scratch[: len(query) * len(key)].reshape(len(query), len(key))
    mkl.matmul(scores, query, key.T, task.scale)
    for bias in task.biases:
        by_head = tile.by_head(scores)
        by_head += tile.of_bias(bias)
    return scores


def _exp(mkl: VectorMath, task: Task, tile: Tile, scores: np.ndarray, *, is_bounded=False, is_shifted=False):
    """Replace scores by exp(scores - shift), and by 0 for keys in the future; return the shift of each row, or 0.

    The shift changes no attention, but keeps sums from overflow and from zero. Moderate scores do not need it, nor
    those that are shifted already.
    """
    if is_bounded or is_moderate(scores):
        mkl.quick_exp(scores)
        if task.is_causal:
            diagonal, past = _diagonal(tile, scores)
            diagonal *= past
        return 0.0
    if task.is_causal:
        diagonal, past = _diagonal(tile, scores)
        np.copyto(diagonal, MASKED, where=past == 0)
    if is_shifted:
        mkl.exp(scores)
        return 0.0
    shift = scores.max(axis=1)
    mkl.add_to_rows(scores, shift, -1.0)
    mkl.exp(scores)
    return shift


def _diagonal(tile: Tile, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of as many last keys as there are queries, [heads, T, T], and [T, T] with 0 for the future."""
    size = tile.queries.stop - tile.queries.start
    return tile.by_head(scores)[:, :, -size:], _past()[:size, :size]


@functools.cache
def _past() -> np.ndarray:
    """Return [MAX_CAUSAL, MAX_CAUSAL] with 1 where key j <= query i, else 0."""
    return np.tril(np.ones([MAX_CAUSAL, MAX_CAUSAL], np.float32))
