"""Activations and the gradient of SwiGLU against transformers and torch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from op_checks import check_gradients, normal
from transformers.activations import ACT2FN

from paddlemix.models.cpu.threads import in_parallel
from paddlemix.ops import activation, vector_math
from paddlemix.ops.activation import activate, gated, gated_pair, quick_gelu, swiglu
from paddlemix.ops.rms_norm import rms_norm


def test_swiglu_equals_torch():
    gate, up = normal(3, 7), normal(3, 7, seed=1)
    expected = (torch.nn.functional.silu(torch.tensor(gate)) * torch.tensor(up)).numpy()
    np.testing.assert_allclose(swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [("silu", "silu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh")])
def test_activations_equal_transformers(kind, name):
    x, up = normal(3, 7) * 3, normal(3, 7, seed=1)
    expected = ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(activate(paddle.to_tensor(x), kind).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(gated(paddle.to_tensor(x), paddle.to_tensor(up), kind).numpy(), expected * up, atol=1e-6)


def test_gradients_of_swiglu_equal_torch_for_large_values_too():
    gate, up = normal(3, 40) * 30, normal(3, 40, seed=1)
    check_gradients(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up)


@pytest.mark.parametrize("is_trained", [[True, False], [False, True]], ids=["gate", "up"])
def test_gradients_of_swiglu_with_one_side_frozen_equal_torch(is_trained):
    gate, up = normal(3, 8), normal(3, 8, seed=1)
    check_gradients(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up, is_trained=is_trained)


def test_inputs_of_a_product_stay_as_they_were():
    inputs = normal(3, 8), normal(3, 8, seed=1)
    tensors = [paddle.to_tensor(each, stop_gradient=False) for each in inputs]
    swiglu(*tensors).sum().backward()
    rms_norm(tensors[0], tensors[1][0], 1e-6).sum().backward()
    for tensor, values in zip(tensors, inputs, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), values)


LARGE = (5, 4096)  # more elements than SMALL


@pytest.fixture(params=[True, False], ids=["MKL", "plain"])
def uses_mkl(request, monkeypatch):
    """Run a test with MKL's functions and without."""
    if not request.param:
        monkeypatch.setattr(activation, "is_usable", lambda *tensors: False)
    elif vector_math.vector_math() is None:
        pytest.skip("paddle has no MKL on this platform")


def extreme(*shape: int, seed: int = 0) -> np.ndarray:
    """Return values of which some have an infinite or vanishing exponential."""
    x = normal(*shape, seed=seed) * 5
    x.flat[:8] = [0.0, -0.0, 100.0, -100.0, 1e4, -1e4, 1e-40, 1e38]
    return x


def test_large_activations_equal_torch(uses_mkl):
    gate, up = extreme(*LARGE), normal(*LARGE, seed=1)
    reference = torch.tensor(gate)
    silu, quick = torch.nn.functional.silu(reference) * torch.tensor(up), reference * torch.sigmoid(1.702 * reference)
    pair = paddle.to_tensor(np.concatenate([gate, up], axis=-1)[None])
    found = [swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)), gated_pair(pair, "silu")[0]]
    for one in found:
        np.testing.assert_allclose(one.numpy(), silu.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(quick_gelu(paddle.to_tensor(gate)).numpy(), quick.numpy(), rtol=1e-6, atol=1e-6)


def test_large_gradients_of_swiglu_equal_torch(uses_mkl):
    gate, up = extreme(*LARGE), normal(*LARGE, seed=1)
    gate[gate > 1e30] = 50.0
    check_gradients(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up)


def test_gradient_passes_through_large_activations_of_every_kind(uses_mkl):
    x = paddle.to_tensor(normal(4, 9000), stop_gradient=False)
    for function in (quick_gelu, lambda x: gated_pair(x, "silu"), lambda x: swiglu(x, x)):
        x.clear_gradient()
        function(x).sum().backward()
        assert float(x.grad.abs().min()) > 0.0


def test_inputs_of_large_activations_stay_as_they_were(uses_mkl):
    values = normal(4, 9000)
    x = paddle.to_tensor(values, stop_gradient=False)
    swiglu(x, x).sum().backward()
    with paddle.no_grad():
        quick_gelu(x), gated_pair(x, "silu"), swiglu(x, x)
    np.testing.assert_array_equal(x.numpy(), values)


def test_worker_threads_compute_the_same_activations(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "3")
    given = [paddle.to_tensor(normal(20 + length, 1024, seed=length)) for length in range(30)]
    expected = [gated_pair(x, "silu").numpy() for x in given]
    for one, other in zip(in_parallel(lambda x: gated_pair(x, "silu").numpy(), given), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
