"""Root mean square layer normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import paddle


def rms_norm(x, weight, epsilon: float):
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last axis; the mean is taken in float32.

    NOTE: paddle's fused_rms_norm is not used on CPU: its kernel needs AVX-512 and kills the process elsewhere.
    """
    if x.dtype == paddle.float32:
        return _normalise(x, epsilon) * weight
    return _normalise(x.astype("float32"), epsilon).astype(x.dtype) * weight


def _normalise(x, epsilon: float):
    return x * paddle.rsqrt((x * x).mean(axis=-1, keepdim=True) + epsilon)
