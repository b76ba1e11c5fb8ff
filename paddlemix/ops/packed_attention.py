"""Attention in rows that hold several samples: each token sees those before it in its own sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.nn.functional.flash_attention import flash_attn_unpadded

from .attention import attention, window_bias


@dataclass(frozen=True)
class Runs:
    """Where samples lie: for each row the (start, end) of each, in order; what lies in none is padding.

    window: how many positions, its own included, a token sees; None for all of its sample.
    """

    rows: tuple[tuple[tuple[int, int], ...], ...]
    window: int | None = None


def find_runs(segment_ids: np.ndarray) -> Runs | None:
    """Return where the segments of [B, T] lie; None where one of them lies in several pieces."""
    rows = []
    for row in segment_ids:
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        runs = tuple((int(start), int(end)) for start, end in itertools.pairwise(edges) if row[start] != 0)
        if len({int(row[start]) for start, _ in runs}) != len(runs):
            return None
        rows.append(runs)
    return Runs(tuple(rows))


def packed_attention(query, key, value, runs: Runs, *, scale: float | None = None, key_bias=None):
    """Attend causally within each run. Arguments and result as in `attention`; positions in no run give zeros."""
    if key_bias is None and runs.window is None and _has_kernel(query):
        return _by_kernel(query, key, value, runs, scale)
    return paddle.concat(
        [
            _attend_row(*(x[row : row + 1] for x in (query, key, value)), one, runs.window, scale, key_bias)
            for row, one in enumerate(runs.rows)
        ]
    )


def _attend_row(query, key, value, runs: Sequence[tuple[int, int]], window, scale, key_bias):
    parts, done = [], 0
    for start, end in runs:
        length = end - start
        is_windowed = window is not None and length > window
        parts += _zeros(value, query.shape[1], start - done)
        parts.append(
            attention(
                *(x[:, :, start:end] for x in (query, key, value)),
                is_causal=not is_windowed,
                bias=window_bias(length, length, window) if is_windowed else None,
                scale=scale,
                key_bias=None if key_bias is None else key_bias[..., start:end],
            )
        )
        done = end
    parts += _zeros(value, query.shape[1], query.shape[2] - done)
    return paddle.concat(parts, axis=2) if len(parts) > 1 else parts[0]


def _zeros(value, num_heads: int, length: int) -> list:
    return [paddle.zeros([1, num_heads, length, value.shape[3]], dtype=value.dtype)] if length else []


def _has_kernel(query) -> bool:
    """Tell if Paddle's variable-length flash attention takes these: on CUDA, in 16 bits."""
    return query.place.is_gpu_place() and query.dtype in (paddle.float16, paddle.bfloat16) and query.shape[3] <= 256


def _by_kernel(query, key, value, runs: Runs, scale):
    """Do all runs of all rows in one call; the padding between them goes along as runs of its own."""
    batch, num_heads, length, dim = query.shape
    starts = {row * length + edge for row, one in enumerate(runs.rows) for run in one for edge in run}
    edges = np.array(sorted(starts | {row * length for row in range(batch + 1)}), dtype=np.int32)
    longest = int(np.diff(edges).max())
    edges = paddle.to_tensor(edges)
    flat = [x.transpose([0, 2, 1, 3]).reshape([-1, x.shape[1], dim]) for x in (query, key, value)]
    scale = dim**-0.5 if scale is None else scale
    out, _ = flash_attn_unpadded(*flat, edges, edges, longest, longest, scale, causal=True)
    return out.reshape([batch, length, num_heads, dim]).transpose([0, 2, 1, 3])
