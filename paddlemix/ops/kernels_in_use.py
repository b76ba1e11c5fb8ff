"""Which kernel each operation uses on a device, for reports."""

from __future__ import annotations

from collections.abc import Callable

from . import activation, rms_norm, rope
from .flash_attention import CAUSAL, HIDDEN, NAMES, PIECES, has_kernel

DENSE, MASKED, PACKED, RMS_NORM, ROPE, SWIGLU = "dense", "masked", "packed", "rms norm", "rotary", "swiglu"


def path_of(operation: str, kind: str, dtype: str, dim: int) -> str | None:
    """Return the name of the kernel that an operation uses, None for plain operations.

    kind: of the current device; dim: the width of the heads. A kernel that exists but is wrong causes a notice.
    """
    return PATHS[operation](kind, dtype, dim)


def _attention(form: str) -> Callable[[str, str, int], str | None]:
    def path(kind: str, dtype: str, dim: int) -> str | None:
        return NAMES[kind] if has_kernel(kind, dtype, dim, form) else None

    return path


def _packed(kind: str, dtype: str, dim: int) -> str | None:
    if has_kernel(kind, dtype, dim, PIECES):
        return f"{NAMES[kind]} (pieces)"
    return f"{NAMES[kind]} (mask)" if has_kernel(kind, dtype, dim, HIDDEN) else None


def _rms_norm(kind: str, dtype: str, dim: int) -> str | None:
    if kind not in rms_norm.NAMES or not rms_norm.has_kernel(kind, dtype):
        return None
    return f"{rms_norm.NAMES[kind]} (plain operations to train)" if kind == "gpu" else rms_norm.NAMES[kind]


def _rope(kind: str, dtype: str, dim: int) -> str | None:
    fits = kind == "npu" and dim % rope.NPU_WIDTH == 0
    return rope.NPU_OP if fits and rope.has_kernel(dtype) else None


def _swiglu(kind: str, dtype: str, dim: int) -> str | None:
    return "swiglu" if kind in rms_norm.NAMES and activation.has_kernel(kind, dtype) else None


PATHS = {
    DENSE: _attention(CAUSAL),
    MASKED: _attention(HIDDEN),
    PACKED: _packed,
    RMS_NORM: _rms_norm,
    ROPE: _rope,
    SWIGLU: _swiglu,
}
