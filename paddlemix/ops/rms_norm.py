"""Root mean square layer normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import functools

import paddle
from paddle.incubate.nn.functional import fused_rms_norm

from .gradients import RMSNorm, is_trained, scaled_norm, wants_own_gradient
from .kernels import agrees, kind_of, name_of, run_custom

NPU_OP = "rms_norm_npu"


def rms_norm(x, weight, epsilon: float, offset: float = 0.0):
    """Return x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis; the mean is taken in float32.

    With an offset the product is taken in float32 too, as in Gemma: 16 bits would round offset + weight.
    Ascend's plugin has an operation for it. Paddle's on CUDA has no gradient in older versions and serves without one.
    NOTE: paddle's fused_rms_norm is not used on CPU: its kernel needs AVX-512 and kills the process elsewhere.
    """
    if not offset and x.dtype == weight.dtype:
        kind = kind_of(x)
        if kind in FUSED and not (kind == "gpu" and is_trained(x, weight)) and has_kernel(kind, name_of(x.dtype)):
            return FUSED[kind](x, weight, epsilon)
    return plain_rms_norm(x, weight, epsilon, offset)


def unit_norm(x, epsilon: float):
    """Return x / sqrt(sum(x^2) + width * epsilon) over the last axis: RMSNorm, up to its scales and sqrt(width)."""
    return paddle._C_ops.norm(x, -1, epsilon * x.shape[-1], True)[0]


def plain_rms_norm(x, weight, epsilon: float, offset: float = 0.0):
    """Do it with plain operations."""
    if offset:
        return (_normalise(x.astype("float32"), epsilon) * (weight.astype("float32") + offset)).astype(x.dtype)
    if wants_own_gradient(x, weight):
        return RMSNorm.apply(x, weight, epsilon)
    if x.dtype == paddle.float32 and x.place.is_cpu_place():
        return scaled_norm(x, weight, epsilon)[0]
    return _normalise(x.astype("float32"), epsilon).astype(x.dtype) * weight


def _normalise(x, epsilon: float):
    return x * paddle.rsqrt((x * x).mean(axis=-1, keepdim=True) + epsilon)


def _npu(x, weight, epsilon: float):
    return run_custom(NPU_OP, x, weight, epsilon)[0]


def _cuda(x, weight, epsilon: float):
    out = fused_rms_norm(x, weight, None, epsilon, begin_norm_axis=x.ndim - 1)
    return out[0] if isinstance(out, tuple | list) else out


FUSED = {"npu": _npu, "gpu": _cuda}


@functools.cache
def has_kernel(kind: str, dtype: str) -> bool:
    """Tell if the current device, of this kind, has a fused operation that computes this."""

    def kernel(x, weight):
        return FUSED[kind](x, weight, 1e-5)

    def plain(x, weight):
        return plain_rms_norm(x, weight, 1e-5)

    name = NPU_OP if kind == "npu" else "fused_rms_norm"
    return agrees(name, kernel, plain, [[2, 3, 64], [64]], dtype, has_gradient=kind == "npu")
