"""Backward passes of our own, against torch's automatic ones."""

import numpy as np
import paddle
import pytest
import torch
from transformers.models.glm.modeling_glm import rotate_half as rotate_pairs
from transformers.models.llama.modeling_llama import LlamaRMSNorm, rotate_half

from paddlemix.ops.gradients import wants_own_gradient
from paddlemix.ops.rms_norm import rms_norm
from paddlemix.ops.rope import apply_rope, rope_tables
from paddlemix.ops.swiglu import swiglu

TURNS = {"halves": rotate_half, "pairs": rotate_pairs}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(ours, theirs, *inputs, is_trained=None):
    """Compare results and the gradients of their sums weighted at random; is_trained: of each input, None for all."""
    is_trained = is_trained or [True] * len(inputs)
    tensors = [paddle.to_tensor(each, stop_gradient=not one) for each, one in zip(inputs, is_trained, strict=True)]
    references = [torch.tensor(each, requires_grad=one) for each, one in zip(inputs, is_trained, strict=True)]
    assert any(wants_own_gradient(each) for each in tensors)
    result, expected = ours(*tensors), theirs(*references)
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), atol=1e-5)
    weights = normal(*expected.shape, seed=9)
    (result * paddle.to_tensor(weights)).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    for tensor, reference, one in zip(tensors, references, is_trained, strict=True):
        if one:
            np.testing.assert_allclose(tensor.grad.numpy(), reference.grad.numpy(), atol=2e-5)
        else:
            assert tensor.grad is None


@pytest.mark.parametrize("shape", [(2, 5, 16), (7, 16), (16,)])
@pytest.mark.parametrize("is_trained", [[True, True], [True, False], [False, True]], ids=["both", "input", "weight"])
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_gradients_of_the_norm_equal_torch(shape, is_trained, epsilon):
    def theirs(x, weight):
        norm = LlamaRMSNorm(16, epsilon)
        del norm.weight
        norm.weight = weight
        return norm(x)

    inputs = normal(*shape), normal(16, seed=1)
    check(lambda x, weight: rms_norm(x, weight, epsilon), theirs, *inputs, is_trained=is_trained)


def test_gradients_of_swiglu_equal_torch_for_large_values_too():
    gate, up = normal(3, 40) * 30, normal(3, 40, seed=1)
    check(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up)


@pytest.mark.parametrize("is_trained", [[True, False], [False, True]], ids=["gate", "up"])
def test_gradients_of_swiglu_with_one_side_frozen_equal_torch(is_trained):
    gate, up = normal(3, 8), normal(3, 8, seed=1)
    check(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up, is_trained=is_trained)


@pytest.mark.parametrize("order", TURNS)
def test_gradients_of_the_rotation_equal_torch(order):
    positions = paddle.to_tensor([[0, 1, 2, 3, 4], [7, 8, 0, 1, 400]])
    cos, sin = rope_tables(positions, 8, 10000.0, 6, "float32", order=order)
    theirs_cos, theirs_sin = torch.tensor(cos.numpy()), torch.tensor(sin.numpy())
    check(
        lambda x: apply_rope(x, cos, sin, order),
        lambda x: x * theirs_cos + TURNS[order](x) * theirs_sin,
        normal(2, 6, 5, 8),
    )


def test_inputs_of_a_product_stay_as_they_were():
    inputs = normal(3, 8), normal(3, 8, seed=1)
    tensors = [paddle.to_tensor(each, stop_gradient=False) for each in inputs]
    swiglu(*tensors).sum().backward()
    rms_norm(tensors[0], tensors[1][0], 1e-6).sum().backward()
    for tensor, values in zip(tensors, inputs, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_take_the_plain_way(dtype):
    assert not wants_own_gradient(paddle.ones([2]).astype(dtype))


def test_without_gradients_the_plain_way_is_taken():
    x = paddle.to_tensor(normal(2, 4), stop_gradient=False)
    with paddle.no_grad():
        assert not wants_own_gradient(x)
    assert not wants_own_gradient(x.detach())
