"""Random inputs and a comparison of gradients with torch, for the tests of operations."""

from __future__ import annotations

import numpy as np
import paddle
import torch

from paddlemix.ops.kernel_checks import wants_own_gradient


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_gradients(ours, theirs, *inputs, is_trained=None):
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
