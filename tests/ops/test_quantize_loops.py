"""The compiled loops of quantization give the codes that NumPy gives, and are left out where they do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from paddlemix.ops import quantize as module
from paddlemix.ops.quantize import KINDS, NF4_MIDDLES, quantize

pytest.importorskip("numba", reason="an optional package")
# Whole blocks, several groups of 256 scales; a part of a block; an odd number of weights.
SHAPES = [(96, 64), (301, 333), (7, 33)]


@pytest.fixture
def always(monkeypatch):
    """Use the loops for matrices of every size; return the number of calls."""
    monkeypatch.setattr(module, "LARGE", 0)
    calls, before = [], module._loops
    monkeypatch.setattr(module, "_loops", lambda: calls.append(1) or before())
    return calls


def arrays_of(codes) -> list[np.ndarray]:
    values = (getattr(codes, item.name) for item in dataclasses.fields(codes))
    return [value for value in values if isinstance(value, np.ndarray)]


def odd_weights(shape: tuple[int, int]) -> np.ndarray:
    """Return weights of very different sizes, with zeros, both signs of the largest, and borders between codes."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, (shape[0], 1))
    weights[0], weights[1, :2] = 0, (-1e35, 1e35)
    weights[2, : min(15, shape[1])] = NF4_MIDDLES[: min(15, shape[1])]
    weights[2, -1] = 1
    weights[3] = 1e-44  # subnormal
    return weights.astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loops_give_the_codes_of_numpy(kind, shape, always, monkeypatch):
    weights = odd_weights(shape)
    found = arrays_of(quantize(weights, kind))
    assert always
    monkeypatch.setattr(module, "_loops", lambda: None)
    for one, other in zip(found, arrays_of(quantize(weights, kind)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_loops_refuse_values_that_are_not_finite(kind, value, always):
    weights = odd_weights((96, 64))
    weights[5, 7] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize(weights, kind)
    assert always


def test_loops_that_give_other_codes_are_not_used_and_named(monkeypatch, caplog):
    from paddlemix.ops import quantize_loops

    module._loops.cache_clear()
    monkeypatch.setattr(quantize_loops, "fill_int8", lambda smallest, rows, codes, largest: codes.fill(0))
    assert module._loops() is None
    assert "other codes than NumPy" in caplog.text
    module._loops.cache_clear()


def test_plain_operations_are_used_where_they_are_wanted(monkeypatch):
    module._loops.cache_clear()
    monkeypatch.setenv("PADDLEMIX_PLAIN_OPS", "1")
    assert module._loops() is None
    module._loops.cache_clear()
