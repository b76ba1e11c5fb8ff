"""Activations and the gradient of SwiGLU against transformers and torch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from op_checks import check_gradients, normal
from transformers.activations import ACT2FN

from paddlemix.ops.activation import activate, gated, swiglu
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
