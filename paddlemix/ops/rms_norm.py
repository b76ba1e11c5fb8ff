"""Root mean square layer normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import paddle

from .gradients import RMSNorm, wants_own_gradient


def rms_norm(x, weight, epsilon: float, offset: float = 0.0):
    """Return x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis; the mean is taken in float32.

    With an offset the product is taken in float32 too, as in Gemma: 16 bits would round offset + weight.
    NOTE: paddle's fused_rms_norm is not used on CPU: its kernel needs AVX-512 and kills the process elsewhere.
    """
    if offset:
        return (_normalise(x.astype("float32"), epsilon) * (weight.astype("float32") + offset)).astype(x.dtype)
    if wants_own_gradient(x):
        return RMSNorm.apply(x, weight, epsilon)
    if x.dtype == paddle.float32:
        return _normalise(x, epsilon) * weight
    return _normalise(x.astype("float32"), epsilon).astype(x.dtype) * weight


def _normalise(x, epsilon: float):
    return x * paddle.rsqrt((x * x).mean(axis=-1, keepdim=True) + epsilon)
