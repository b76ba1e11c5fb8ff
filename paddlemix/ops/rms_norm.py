"""Root mean square layer normalization (Zhang and Sennrich 2019)."""

from __future__ import annotations

import functools

import paddle
from paddle.autograd import PyLayer
from paddle.incubate.nn.functional import fused_rms_norm

from .kernel_checks import agrees, is_trained, kind_of, name_of, run_custom, wants_own_gradient

NPU_OP = "rms_norm_npu"
NAMES = {"npu": NPU_OP, "gpu": "fused_rms_norm"}


def rms_norm(x, weight, epsilon: float, offset: float = 0.0):
    """Return x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis. The mean is taken in float32.

    With an offset the product is in float32 too, as in Gemma: 16 bits would round offset + weight. Ascend's plugin has
    a fused operation. Paddle's on CUDA has no gradient in older versions and is used without one only.
    NOTE: paddle's fused_rms_norm is not used on CPU: its kernel needs AVX-512 and kills the process elsewhere.
    """
    if not offset and x.dtype == weight.dtype:
        kind = kind_of(x)
        if kind in FUSED and not (kind == "gpu" and is_trained(x, weight)) and has_kernel(kind, name_of(x.dtype)):
            return FUSED[kind](x, weight, epsilon)
    return plain_rms_norm(x, weight, epsilon, offset)


def unit_norm(x, epsilon: float):
    """Return x / sqrt(sum(x^2) + width * epsilon) over the last axis: RMSNorm without weight and sqrt(width)."""
    return paddle._C_ops.norm(x, -1, epsilon * x.shape[-1], True)[0]


def plain_rms_norm(x, weight, epsilon: float, offset: float = 0.0):
    """Return what `rms_norm` does, by plain operations."""
    if offset:
        return (_normalize(x.astype("float32"), epsilon) * (weight.astype("float32") + offset)).astype(x.dtype)
    if wants_own_gradient(x, weight):
        return RMSNorm.apply(x, weight, epsilon)
    if x.dtype == paddle.float32 and x.place.is_cpu_place():
        return _scaled_norm(x, weight, epsilon)[0]
    return _normalize(x.astype("float32"), epsilon).astype(x.dtype) * weight


def _normalize(x, epsilon: float):
    return x * paddle.rsqrt((x * x).mean(axis=-1, keepdim=True) + epsilon)


class RMSNorm(PyLayer):
    """RMSNorm over the last axis with its own gradient, see `wants_own_gradient`."""

    @staticmethod
    def forward(ctx, x, weight, epsilon: float):
        """Return the norm of x [..., H], weight [H]."""
        result, inverse = _scaled_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return result

    @staticmethod
    def backward(ctx, grad):
        x, weight, inverse = ctx.saved_tensor()
        flat, grad = (each.reshape([-1, x.shape[-1]]) for each in (x, grad))
        weight_grad = None
        if not weight.stop_gradient:
            weight_grad = paddle.matmul(inverse, grad * flat, transpose_x=True).reshape(weight.shape)
        if x.stop_gradient:
            return None, weight_grad
        passed = grad * paddle.matmul(inverse, weight.reshape([1, -1]))
        shares = _row_sums(passed * flat) * inverse * inverse / x.shape[-1]
        return passed.subtract_(flat * shares.expand(flat.shape)).reshape(x.shape), weight_grad


def _scaled_norm(x, weight, epsilon: float):
    """Return the norm of x, and the inverse root mean square [N, 1] of its rows."""
    flat = x.reshape([-1, x.shape[-1]])
    inverse = paddle.rsqrt(_row_sums(flat * flat) / x.shape[-1] + epsilon)
    return paddle.matmul(inverse, weight.reshape([1, -1])).multiply_(flat).reshape(x.shape), inverse


def _row_sums(x):
    """Return the sums of [N, H] as [N, 1]."""
    return paddle.matmul(x, paddle.ones([x.shape[1], 1], dtype=x.dtype))


def _npu(x, weight, epsilon: float):
    return run_custom(NPU_OP, x, weight, epsilon)[0]


def _cuda(x, weight, epsilon: float):
    out = fused_rms_norm(x, weight, None, epsilon, begin_norm_axis=x.ndim - 1)
    return out[0] if isinstance(out, tuple | list) else out


FUSED = {"npu": _npu, "gpu": _cuda}


@functools.cache
def has_kernel(kind: str, dtype: str) -> bool:
    """Return whether the current device, of this kind, has a correct fused RMSNorm."""
    kernel, plain = (functools.partial(function, epsilon=1e-5) for function in (FUSED[kind], plain_rms_norm))
    return agrees(NAMES[kind], kernel, plain, [[2, 3, 64], [64]], dtype, has_gradient=kind == "npu")
