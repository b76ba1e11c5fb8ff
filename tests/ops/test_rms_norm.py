"""RMSNorm and its gradient against transformers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from op_checks import check_gradients, normal
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from paddlemix.ops.rms_norm import rms_norm


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_rms_norm_equals_transformers(epsilon):
    x, weight = normal(2, 5, 16), normal(16, seed=1)
    norm = LlamaRMSNorm(16, epsilon)
    norm.weight.data = torch.tensor(weight)
    ours = rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), epsilon).numpy()
    np.testing.assert_allclose(ours, norm(torch.tensor(x)).detach().numpy(), atol=1e-5)


def test_rms_norm_with_an_offset_equals_transformers():
    x, weight = normal(2, 5, 16), normal(16, seed=1)
    norm = GemmaRMSNorm(16, 1e-6)
    norm.weight.data = torch.tensor(weight)
    ours = rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), 1e-6, 1.0).numpy()
    np.testing.assert_allclose(ours, norm(torch.tensor(x)).detach().numpy(), atol=1e-5)


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
    check_gradients(lambda x, weight: rms_norm(x, weight, epsilon), theirs, *inputs, is_trained=is_trained)
