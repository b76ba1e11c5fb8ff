"""Codes of weights against bitsandbytes and against its definition, written down once more in plain NumPy."""

from __future__ import annotations

import os
from statistics import NormalDist

import numpy as np
import paddle
import pytest

from paddlemix.ops import dequantize as on_paddle
from paddlemix.ops.quantize import (
    DYNAMIC,
    KINDS,
    NF4,
    choose_kind,
    dequantize,
    quantize,
    quantize_in_steps,
    quantize_int8,
    quantize_nf4,
)

# Whole blocks, several groups of 256 scales; a part of a block; an odd number of weights.
SHAPES = [(96, 64), (301, 333), (7, 33)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float32)


def digits_of(codes) -> np.ndarray:
    """Return a code for each weight, in a row."""
    both = np.stack([codes.codes >> 4, codes.codes & 15], axis=-1).reshape(-1)
    return both[: np.prod(codes.shape)]


def scales_of(flat: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of every 64 values, the last ones included."""
    return np.array([np.abs(flat[start : start + 64]).max() for start in range(0, flat.size, 64)])


@pytest.fixture(scope="module")
def bitsandbytes():
    pytest.importorskip("bitsandbytes", reason="the reference is in requirements-dev.txt")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # it would compile its CPU kernels, which takes minutes
    from bitsandbytes import functional

    return functional


def test_nf4_values_are_quantiles_of_the_normal_distribution():
    """create_normal_map of bitsandbytes: 8 values above zero, 7 below, zero, the largest scaled to 1."""
    offset, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(probability) for probability in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(probability) for probability in np.linspace(offset, 0.5, 8)[:-1]]
    values = np.sort([*above, 0.0, *below])
    np.testing.assert_allclose(NF4, values / np.abs(values).max(), atol=2e-7)


def test_code_books_equal_those_of_bitsandbytes(bitsandbytes):
    np.testing.assert_array_equal(NF4, bitsandbytes.get_4bit_type("nf4", device="cpu").numpy())
    np.testing.assert_allclose(DYNAMIC, bitsandbytes.create_dynamic_map().numpy(), rtol=3e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_codes_equal_those_of_bitsandbytes(shape, bitsandbytes):
    import torch

    weight = normal(*shape)
    theirs, state = bitsandbytes.quantize_4bit(
        torch.from_numpy(weight), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    ours = quantize_nf4(weight)
    num_blocks = len(ours.codes)
    np.testing.assert_array_equal(ours.codes.reshape(-1)[: theirs.numel()], theirs.numpy().reshape(-1))
    np.testing.assert_allclose(ours.offset[0], float(state.offset), rtol=1e-6)
    np.testing.assert_allclose(ours.group_scales, state.state2.absmax.numpy(), atol=1e-8)
    # Its CPU search sometimes takes the second nearest of two values that are almost equally near.
    distance = np.abs(ours.scale_codes.reshape(-1)[:num_blocks].astype(int) - state.absmax.numpy().reshape(-1))
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01
    restored = bitsandbytes.dequantize_4bit(theirs, state).numpy()
    assert np.abs(dequantize(ours) - restored).max() <= 0.03 * np.abs(weight).max()
    is_same = np.repeat(distance == 0, 64)[: weight.size].reshape(shape)
    np.testing.assert_allclose(dequantize(ours)[is_same], restored[is_same], atol=2e-8)


def test_int8_codes_equal_those_of_bitsandbytes(bitsandbytes):
    import torch

    weight = normal(301, 333).astype(np.float16)
    theirs, largest, _ = bitsandbytes.int8_vectorwise_quant(torch.from_numpy(weight))
    ours = quantize_int8(weight.astype(np.float32))
    distance = np.abs(ours.codes.astype(int) - theirs.numpy())
    assert distance.max() <= 1 and (distance > 0).mean() < 1e-3  # a half may go up or down
    np.testing.assert_allclose(ours.scales * 127, largest.numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_follows_its_definition(shape):
    """Each weight has the nearest of the 16 values times its block's scale; scales likewise with the 256."""
    weight = normal(*shape, seed=1)
    codes = quantize_nf4(weight)
    scales = scales_of(weight.reshape(-1))
    scaled = weight.reshape(-1) / np.repeat(scales, 64)[: weight.size]
    nearest = np.abs(scaled[:, None] - NF4.astype(np.float64)).min(axis=1)
    chosen = np.abs(scaled - NF4.astype(np.float64)[digits_of(codes)])
    np.testing.assert_allclose(chosen, nearest, atol=1e-6)
    rest = scales.astype(np.float64) - scales.mean(dtype=np.float64)
    groups = [rest[start : start + 256] for start in range(0, len(rest), 256)]
    for group, largest, chosen in zip(groups, codes.group_scales, codes.scale_codes, strict=True):
        np.testing.assert_allclose(largest, np.abs(group).max(), rtol=1e-5)
        errors = np.abs(group[:, None] / largest - DYNAMIC.astype(np.float64))
        np.testing.assert_allclose(errors[np.arange(len(group)), chosen[: len(group)]], errors.min(axis=1), atol=1e-5)


def test_rounding_errors_stay_within_half_a_step():
    weight = normal(128, 256, seed=2)
    error = np.abs(dequantize(quantize_int8(weight)) - weight)
    assert (error <= np.abs(weight).max(axis=1, keepdims=True) / 127 * 0.5001).all()
    error = np.abs(dequantize(quantize_nf4(weight)) - weight).reshape(-1, 64)
    scales = scales_of(weight.reshape(-1))[:, None]
    # Half of the widest gap between two values, and what coding the scales itself may cost.
    slack = np.abs(scales - scales.mean()).max() * 0.01
    assert (error <= scales * np.diff(NF4).max() / 2 * 1.001 + slack).all()
    assert error.mean() < 0.1 * np.abs(weight).mean()


def test_zeros_stay_zero_and_codes_fit_any_scale():
    weight = normal(4, 128)
    weight[1] = 0
    weight[2] *= 1e-30
    weight[3] *= 1e30
    for kind in KINDS:
        restored = dequantize(quantize(weight, kind))
        assert np.isfinite(restored).all()
        np.testing.assert_array_equal(restored[1], 0)
    np.testing.assert_array_equal(dequantize(quantize_nf4(np.zeros([3, 5], np.float32))), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(kind, value):
    weight = normal(8, 64)
    weight[3, 5] = value
    with pytest.raises(ValueError, match="values that are not finite"):
        quantize(weight, kind)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_the_device_are_bit_equal(shape, kind):
    codes = quantize(normal(*shape), kind)
    restored = on_paddle.dequantize(on_paddle.on_device(codes), paddle.float32)
    np.testing.assert_array_equal(restored.numpy(), dequantize(codes))


def test_codes_take_the_bits_that_the_paper_counts():
    """4 bits, 8 bits for each 64 weights and 32 for each 64 * 256: 4.127 (Dettmers et al. 2023, section 3)."""
    codes = on_paddle.on_device(quantize_nf4(np.zeros([512, 512], np.float32)))
    assert on_paddle.num_bytes(codes) * 8 / 512**2 == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)
    assert on_paddle.num_bytes(on_paddle.on_device(quantize_int8(np.zeros([512, 512], np.float32)))) == 512**2 + 4 * 512


def test_switches_name_one_kind_at_most():
    assert [choose_kind(*pair) for pair in ((False, False), (True, False), (False, True))] == [None, "int8", "nf4"]
    with pytest.raises(ValueError, match="set one of load_in_8bit and load_in_4bit"):
        choose_kind(True, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (300, 4096)])
def test_reading_a_few_rows_at_a_time_gives_the_same_codes(kind, shape):
    weights, read = normal(*shape), []
    codes = quantize_in_steps(shape, lambda rows: read.append(rows) or weights[rows], kind)
    assert (len(read) > 1) == (shape[1] == 4096)  # more than fits into a step
    np.testing.assert_array_equal(dequantize(codes), dequantize(quantize(weights, kind)))
