"""Compare the operations on the simulated device with NumPy and print the errors as JSON, for test_operations."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

import numpy as np
import paddle

from paddlemix.ops import activation, flash_attention, kernel_checks, rms_norm, rope
from paddlemix.ops.attention import attention, kernel_mask
from paddlemix.ops.packed_attention import find_runs, packed_attention
from paddlemix.ops.plain_attention import MASKED

DIM = 64
SEGMENTS = np.array([[1] * 5 + [2] * 3 + [3] * 4, [0, 0] + [1] * 6 + [0] + [2] * 3])


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_device(array: np.ndarray, dtype: str):
    """Return a tensor of this dtype, and its rounded values in float64."""
    tensor = paddle.to_tensor(array).astype(dtype)
    tensor.stop_gradient = False
    return tensor, tensor.detach().astype("float32").numpy().astype(np.float64)


def differences(run, reference, arrays: list[np.ndarray], dtype: str) -> float:
    """Return the largest relative error of the output and of the gradients.

    reference: a function of float64 arrays. The output's error is relative to its largest value. Each input's gradient
    is compared with central differences of the reference along one direction, relative to the gradient's norm.
    """
    tensors, values = zip(*(on_device(array, dtype) for array in arrays), strict=True)
    out = run(*tensors)
    expected = reference(*values)
    slopes = normal(*expected.shape, seed=99).astype(np.float64)
    (out.astype("float32") * paddle.to_tensor(slopes.astype(np.float32))).sum().backward()
    errors = [np.abs(out.astype("float32").numpy() - expected).max() / np.abs(expected).max()]
    for number, (tensor, value) in enumerate(zip(tensors, values, strict=True)):
        direction = normal(*value.shape, seed=50 + number).astype(np.float64)
        moved = [
            (reference(*values[:number], value + sign * 1e-4 * direction, *values[number + 1 :]) * slopes).sum()
            for sign in (1, -1)
        ]
        slope = (tensor.grad.astype("float32").numpy() * direction).sum()
        scale = np.sqrt((tensor.grad.astype("float32").numpy() ** 2).sum()) + 1e-9
        errors.append(abs(slope - (moved[0] - moved[1]) / 2e-4) / scale)
    return float(max(errors))


def dense(query, key, value, visible, scale=None) -> np.ndarray:
    """Compute attention in float64; visible: bool [B, 1, T, S]. Rows without visible keys are zero."""
    group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat(group, 1).transpose(0, 1, 3, 2) * (scale or query.shape[3] ** -0.5)
    weights = np.where(visible, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ value.repeat(group, 1)


def causal(length: int) -> np.ndarray:
    return (np.arange(length)[None] <= np.arange(length)[:, None])[None, None]


def check_attention(dtype: str) -> dict[str, float]:
    arrays = [normal(2, heads, 12, DIM, seed=seed) for seed, heads in enumerate((4, 2, 2))]
    found = {}
    for name, is_causal in (("causal", True), ("whole", False)):
        seen = causal(12) if is_causal else np.ones([1, 1, 12, 12], bool)
        run = functools.partial(attention, is_causal=is_causal, scale=0.2)
        found[name] = differences(run, functools.partial(dense, visible=seen, scale=0.2), arrays, dtype)
    visible = normal(2, 1, 5, 12, seed=3) > 0
    visible[..., 0] = True
    bias = paddle.to_tensor(np.where(visible, 0.0, MASKED).astype(np.float32))
    run = functools.partial(attention, bias=kernel_mask(bias, paddle.zeros([1], dtype=dtype), DIM))
    shorter = [arrays[0][:, :, :5], *arrays[1:]]
    found["masked"] = differences(run, functools.partial(dense, visible=visible), shorter, dtype)
    for window in (None, 3):
        found[f"packed, window {window}"] = check_packed(arrays, window, dtype)
    return found


def check_packed(arrays: list[np.ndarray], window: int | None, dtype: str) -> float:
    is_real = (SEGMENTS > 0)[:, None, :, None]
    distances = np.arange(12)[:, None] - np.arange(12)[None]
    visible = (SEGMENTS[:, :, None] == SEGMENTS[:, None])[:, None] & causal(12) & (distances < (window or 12))
    runs = dataclasses.replace(find_runs(SEGMENTS), window=window)
    mask = paddle.to_tensor(is_real.astype(np.float32)).astype(dtype)
    return differences(
        lambda *x: packed_attention(*x, runs) * mask, lambda *x: dense(*x, visible) * is_real, arrays, dtype
    )


def check_others(dtype: str) -> dict[str, float]:
    x, weight = normal(2, 12, DIM, seed=4), normal(DIM, seed=5)
    found = {
        "rms_norm": differences(
            lambda x, w: rms_norm.rms_norm(x, w, 1e-5),
            lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w,
            [x, weight],
            dtype,
        ),
        "swiglu": differences(activation.swiglu, lambda g, u: g / (1 + np.exp(-g)) * u, [x, x[::-1].copy()], dtype),
    }
    found |= {f"rope of {length}": check_rope(length, dtype) for length in (6, 1)}
    return found


def check_rope(length: int, dtype: str) -> float:
    positions, half = np.array([[0, 1, 2, 3, 0, 1], [5, 6, 7, 8, 9, 10]])[:, :length], DIM // 2
    tables = rope.rope_tables(paddle.to_tensor(positions), DIM, 1e4, 3, dtype)
    angles = np.concatenate([positions[:, None, :, None] / 1e4 ** (np.arange(0, DIM, 2) / DIM)] * 2, -1)

    def rotated(x):
        return x * np.cos(angles) + np.concatenate([-x[..., half:], x[..., :half]], -1) * np.sin(angles)

    return differences(lambda x: rope.apply_rope(x, *tables), rotated, [normal(2, 3, length, DIM, seed=6)], dtype)


def main() -> None:
    paddle.set_device("npu")
    calls: dict[str, int] = {}
    run_custom = kernel_checks.run_custom

    def counted(name, *arguments):
        calls[name] = calls.get(name, 0) + 1
        return run_custom(name, *arguments)

    for module in (rms_norm, rope, flash_attention):
        module.run_custom = counted
    found = {dtype: {**check_attention(dtype), **check_others(dtype)} for dtype in sys.argv[1].split(",")}
    names = ("flash_attention_npu", "flash_attention_npu (pieces)", "rms_norm_npu", "fused_rope")
    rejections = {name: kernel_checks.rejections(name) for name in names}
    print(json.dumps({"errors": found, "calls": calls, "rejections": rejections}))


if __name__ == "__main__":
    main()
