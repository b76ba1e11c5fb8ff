"""Attention by device kernels (Dao 2023): `flash_attention_npu` of Ascend's plugin, Paddle's on CUDA.

Ascend's takes tensors [B, T, heads, D] in 16 bits with the scale 1 / sqrt(D). It hides no key, or the future where
there are as many queries as keys, or the keys of a bool mask. In October 2024 it had 5 inputs and 5 attributes. Since
January 2025 the cumulative lengths of pieces come before these attributes, and after them a flag for tensors
[tokens, heads, D] in pieces (PaddleCustomDevice, backends/npu/custom_op/fused_attention_npu.cc; PaddleNLP #9735).
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math

import paddle

from .kernel_checks import FAILURES, HALF, agrees, kind_of, name_of, run_custom
from .plain_attention import MASKED, causal_bias, plain_attention

cuda = importlib.import_module("paddle.nn.functional.flash_attention")  # in some versions a function has this name too
MAX_CUDA_DIM = 256
NPU_OP = "flash_attention_npu"
NAMES = {"npu": NPU_OP, "gpu": "flash attention"}
CAUSAL, WHOLE, HIDDEN, PIECES = "causal", "whole", "hidden", "pieces"  # forms of attention
FORMS = {"npu": (CAUSAL, WHOLE, HIDDEN, PIECES), "gpu": (CAUSAL, WHOLE, PIECES)}


def flash_attention(query, key, value, is_causal: bool, hidden=None, scale: float | None = None):
    """Return what `ops.attention.attention` does, or None if the device has no kernel for it.

    hidden: bool [B or 1, heads or 1, T, S], True for keys that a query does not see, or None.
    """
    num_queries, num_keys, dim = query.shape[2], key.shape[2], query.shape[3]
    if num_queries == 1 or (is_causal and (num_queries != num_keys or hidden is not None)):
        return None
    form = HIDDEN if hidden is not None else CAUSAL if is_causal else WHOLE
    kind = kind_of(query)
    if not has_kernel(kind, name_of(value.dtype), dim, form):
        return None
    tensors = [x.transpose([0, 2, 1, 3]) for x in _prepared(query, key, value, scale)]
    return RUN[kind](*tensors, is_causal, hidden).transpose([0, 2, 1, 3])


def flash_pieces(query, key, value, lengths: tuple[int, ...], scale: float | None = None, keep: dict | None = None):
    """Return causal attention within each piece of all rows, or None if the device has no kernel for it.

    query [B, heads, T, D]; key, value [B, kv_heads, T, D]; lengths: of the pieces of all rows in order, B * T in total.
    keep: stores tensors that all layers share.
    """
    kind, (batch, num_heads, length, dim) = kind_of(query), query.shape
    if not has_kernel(kind, name_of(value.dtype), dim, PIECES):
        return None
    tensors = _prepared(query, key, value, scale)
    flat = [x.transpose([0, 2, 1, 3]).reshape([batch * length, x.shape[1], dim]) for x in tensors]
    out = RUN_PIECES[kind](*flat, lengths, {} if keep is None else keep)
    return out.reshape([batch, length, num_heads, dim]).transpose([0, 2, 1, 3])


def has_kernel(kind: str, dtype: str, dim: int, form: str) -> bool:
    """Return whether the current device, of this kind, has a correct kernel for a head width and form of attention."""
    if dtype not in HALF or form not in FORMS.get(kind, ()) or (kind == "gpu" and dim > MAX_CUDA_DIM):
        return False
    return _is_right(kind, dtype, dim, form)


@functools.cache
def _is_right(kind: str, dtype: str, dim: int, form: str) -> bool:
    """Try the kernel with two query heads for one key head, and rows that see different keys."""
    num_queries, num_keys = (6, 11) if form == HIDDEN else (8, 8)
    shapes = [[2, num_queries, 2, dim], [2, num_keys, 1, dim], [2, num_keys, 1, dim]]
    lengths = (3, 5, 8)

    def kernel(query, key, value):
        if form != PIECES:
            return RUN[kind](query, key, value, form == CAUSAL, _try_hidden() if form == HIDDEN else None)
        flat = [x.reshape([16, x.shape[2], dim]) for x in (query, key, value)]
        return RUN_PIECES[kind](*flat, lengths, {}).reshape(query.shape)

    def plain(query, key, value):
        heads_first = [x.transpose([0, 2, 1, 3]) for x in (query, key, value)]
        if form != PIECES:
            bias = _try_hidden().astype("float32") * MASKED if form == HIDDEN else None
            out = plain_attention(*heads_first, is_causal=form == CAUSAL, bias=bias)
            return out.transpose([0, 2, 1, 3])
        causal = causal_bias(8, 8)
        apart = paddle.to_tensor([0] * 3 + [1] * 5, dtype="int32")
        apart = (apart.unsqueeze(0) != apart.unsqueeze(1)).astype("float32").reshape([1, 1, 8, 8])
        bias = paddle.concat([causal + apart * MASKED, causal])
        return plain_attention(*heads_first, bias=bias).transpose([0, 2, 1, 3])

    name = NAMES[kind]
    return agrees(f"{name} ({form})" if form == PIECES else name, kernel, plain, shapes, dtype)


def _try_hidden():
    """Return a mask [2, 1, 6, 11] that hides the future, and in the second row the first keys."""
    rows, columns = paddle.arange(6).reshape([1, 1, 6, 1]), paddle.arange(11).reshape([1, 1, 1, 11])
    first = paddle.to_tensor([0, 3]).reshape([2, 1, 1, 1])
    return ((columns > rows + 5).astype("float32") + (columns < first).astype("float32")) > 0.5


def _prepared(query, key, value, scale: float | None):
    """Return all three in value's dtype, and the query scaled so that 1 / sqrt(D) remains to be applied."""
    usual = 1.0 / math.sqrt(query.shape[3])
    if scale is not None and scale != usual:
        query = query * (scale / usual)
    # Mixed precision may leave queries and keys in 32 bits, although it computes their product in 16.
    return [x if x.dtype == value.dtype else x.astype(value.dtype) for x in (query, key, value)]


def _npu(query, key, value, is_causal: bool, hidden, lengths: list[int] | None = None):
    """Call the plugin without dropout and without returning the softmax; the mask may be any."""
    tensors = (query, key, value, None, hidden)
    options = (0.0, is_causal, False, True, False)
    if _has_lengths():
        return run_custom(NPU_OP, *tensors, lengths, lengths, *options, lengths is not None)[0]
    if lengths is not None:
        raise NotImplementedError("the plugin's operation is from before 2025 and has no pieces of several lengths")
    return run_custom(NPU_OP, *tensors, *options)[0]


@functools.cache
def _has_lengths() -> bool:
    """Return whether the plugin's operation is the newer one. Raises one of FAILURES if it is neither."""
    x = paddle.ones([1, 16, 1, 64], dtype="float16")
    with paddle.no_grad():
        try:
            run_custom(NPU_OP, x, x, x, None, None, None, None, 0.0, True, False, True, False, False)
        except FAILURES:
            run_custom(NPU_OP, x, x, x, None, None, 0.0, True, False, True, False)
            return False
    return True


def _npu_pieces(query, key, value, lengths: tuple[int, ...], keep: dict):
    """Pass the ends of the pieces, which the backend reads on the host."""
    if "ends" not in keep:
        keep["ends"] = list(itertools.accumulate(lengths))
    return _npu(query, key, value, True, None, keep["ends"])


def _cuda(query, key, value, is_causal: bool, hidden):
    assert hidden is None
    return cuda.flash_attention(query, key, value, causal=is_causal)[0]


def _cuda_pieces(query, key, value, lengths: tuple[int, ...], keep: dict):
    if "edges" not in keep:
        keep["edges"] = paddle.to_tensor([0, *itertools.accumulate(lengths)], dtype="int32")
    longest, edges, scale = max(lengths), keep["edges"], 1.0 / math.sqrt(query.shape[2])
    return cuda.flash_attn_unpadded(query, key, value, edges, edges, longest, longest, scale, causal=True)[0]


RUN = {"npu": _npu, "gpu": _cuda}
RUN_PIECES = {"npu": _npu_pieces, "gpu": _cuda_pieces}
