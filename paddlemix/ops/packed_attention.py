"""Attention in packed rows: each token sees the tokens before it in its own sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import paddle

from .attention import attention
from .flash_attention import HIDDEN, flash_attention, flash_pieces, has_kernel
from .kernel_checks import kind_of, name_of
from .plain_attention import BLOCK, attend_block, causal_bias, window_bias
from .tiled_attention import Span, has_tiles, tiled_attention


@dataclass(frozen=True)
class Runs:
    """The (start, end) of each sample of each row, in order. Positions outside of samples are padding.

    window: number of positions that a token sees, its own included; None for its whole sample. masks: shared by the
    layers of a forward pass, by shape, made on first use.
    """

    rows: tuple[tuple[tuple[int, int], ...], ...]
    window: int | None = None
    masks: dict = field(default_factory=dict, compare=False, repr=False)


def find_runs(segment_ids: np.ndarray) -> Runs | None:
    """Return the runs of segments [B, T], or None if a segment is split into several pieces."""
    rows = []
    for row in segment_ids:
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        runs = tuple((int(start), int(end)) for start, end in itertools.pairwise(edges) if row[start] != 0)
        if len({int(row[start]) for start, _ in runs}) != len(runs):
            return None
        rows.append(runs)
    return Runs(tuple(rows))


def packed_attention(query, key, value, runs: Runs, *, scale: float | None = None, key_bias=None):
    """Return causal attention within each run. Arguments and result as in `attention`.

    The output at padding is meaningless: zeros, or with a device's kernel the attention of padding to padding.
    """
    if key_bias is None and kind_of(query) != "cpu":
        out = _by_kernel(query, key, value, runs, scale)
        if out is not None:
            return out
    if key_bias is None and any(runs.rows) and not _has_windows(runs) and has_tiles(query, key, value):
        spans = [Span(row, start, end, start, end) for row, ends in enumerate(runs.rows) for start, end in ends]
        scale = query.shape[3] ** -0.5 if scale is None else scale
        return tiled_attention(query, key, value, spans, is_causal=True, scale=scale)
    # Split and concatenated, not sliced: the gradient of a slice is as large as the whole tensor.
    rows = zip(*(paddle.split(x, x.shape[0]) if x.shape[0] > 1 else [x] for x in (query, key, value)), strict=True)
    outs = [_attend_row(*row, number, runs, scale, key_bias) for number, row in enumerate(rows)]
    return paddle.concat(outs) if len(outs) > 1 else outs[0]


def _has_windows(runs: Runs) -> bool:
    """Return whether the window is shorter than a run."""
    longest = max((end - start for row in runs.rows for start, end in row), default=0)
    return runs.window is not None and longest > runs.window


def _attend_row(query, key, value, number: int, runs: Runs, scale, key_bias):
    """Return the attention of one row [1, heads, T, D]."""
    pieces = _pieces(runs.rows[number], query.shape[2])
    sizes = [end - start for start, end, _ in pieces]
    parts = zip(*(paddle.split(x, sizes, axis=2) if len(sizes) > 1 else [x] for x in (query, key, value)), strict=True)
    outs = []
    for (start, end, is_run), part in zip(pieces, parts, strict=True):
        if not is_run:
            outs.append(paddle.zeros([1, query.shape[1], end - start, value.shape[3]], dtype=value.dtype))
        elif key_bias is None and (runs.window is None or end - start <= runs.window):
            outs.append(_causal(*part, scale, runs.masks))
        else:
            outs.append(_biased(*part, scale, runs.window, None if key_bias is None else key_bias[..., start:end]))
    return paddle.concat(outs, axis=2) if len(outs) > 1 else outs[0]


def _pieces(runs: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int, bool]]:
    """Return (start, end, is_run) of everything in a row, padding included."""
    pieces, done = [], 0
    for start, end in (*runs, (length, length)):
        if start > done:
            pieces.append((done, start, False))
        if end > start:
            pieces.append((start, end, True))
        done = end
    return pieces


def _biased(query, key, value, scale, window: int | None, key_bias):
    """Return the attention of one run with a window or a key_bias."""
    length = query.shape[2]
    is_windowed = window is not None and length > window
    bias = window_bias(length, length, window) if is_windowed else None
    return attention(query, key, value, is_causal=not is_windowed, bias=bias, scale=scale, key_bias=key_bias)


def _causal(query, key, value, scale, masks: dict):
    """Return the causal attention of one run. Each block of queries sees the keys up to its end."""
    length, num_heads = query.shape[2], query.shape[1]
    query = query * (query.shape[3] ** -0.5 if scale is None else scale)
    sizes = [min(BLOCK, length - start) for start in range(0, length, BLOCK)]
    if len(sizes) == 1:
        return attend_block(query, key, value, _mask(masks, num_heads, length, length))
    queries, keys, values = (paddle.split(x, sizes, axis=2) for x in (query, key, value))
    outs, end = [], 0
    for number, size in enumerate(sizes):
        end += size
        seen = [paddle.concat(x[: number + 1], axis=2) if number else x[0] for x in (keys, values)]
        outs.append(attend_block(queries[number], *seen, _mask(masks, num_heads, size, end)))
    return paddle.concat(outs, axis=2)


def _mask(masks: dict, num_heads: int, num_queries: int, num_keys: int):
    """Return the causal mask, on CPU as large as the scores, because adding equal shapes is many times as fast."""
    shape = (num_heads, num_queries, num_keys)
    if shape not in masks:
        mask = causal_bias(num_queries, num_keys)
        is_expanded = mask is not None and mask.place.is_cpu_place()
        masks[shape] = mask.expand([1, *shape]).contiguous() if is_expanded else mask
    return masks[shape]


def _by_kernel(query, key, value, runs: Runs, scale):
    """Return the attention of all runs of all rows in one call, or None if the device has no kernel for it.

    The kernel treats padding between runs as further runs.
    """
    if runs.window is None:
        if "pieces" not in runs.masks:
            ends = [_pieces(row, query.shape[2]) for row in runs.rows]
            runs.masks["pieces"] = tuple(end - start for row in ends for start, end, _ in row)
        out = flash_pieces(query, key, value, runs.masks["pieces"], scale, runs.masks)
        if out is not None:
            return out
    if not has_kernel(kind_of(query), name_of(value.dtype), query.shape[3], HIDDEN):
        return None
    if "hidden" not in runs.masks:
        runs.masks["hidden"] = _hidden(runs, query.shape[2])
    return flash_attention(query, key, value, False, runs.masks["hidden"], scale)


def _hidden(runs: Runs, length: int):
    """Return bool [B, 1, T, T], False for keys that a query sees: up to itself, in its run, within the window."""
    numbers = np.zeros([len(runs.rows), length], dtype=np.int32)
    for row, spans in enumerate(runs.rows):
        for number, (start, end, _) in enumerate(_pieces(spans, length)):
            numbers[row, start:end] = number
    numbers = paddle.to_tensor(numbers)
    is_apart = (numbers.unsqueeze(1) != numbers.unsqueeze(2)).unsqueeze(1).astype("float32")
    bias = window_bias(length, length, runs.window or length) if length > 1 else paddle.zeros([1, 1, 1, 1])
    return is_apart - bias > 0.5
