"""Rotary position embedding against transformers and torch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from op_checks import check_gradients, normal
from transformers.models.ernie4_5 import modeling_ernie4_5
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from paddlemix.ops.rope import apply_rope, quarter_turn, rope_tables

ROTARY = {
    "halves": (LlamaRotaryEmbedding, apply_rotary_pos_emb),
    "pairs": (modeling_ernie4_5.Ernie4_5RotaryEmbedding, modeling_ernie4_5.apply_rotary_pos_emb),
}
QUARTER_TURNS = {"halves": modeling_llama.rotate_half, "pairs": modeling_glm.rotate_half}


@pytest.mark.parametrize("order", ROTARY)
@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_rotary_embedding_equals_transformers(theta, order):
    config = tiny.text_config(rope_theta=theta)
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 400]])
    query, key = normal(2, 6, 5, 8), normal(2, 2, 5, 8, seed=1)
    embedding, apply = ROTARY[order]
    tables = embedding(config)(torch.tensor(query), torch.tensor(positions))
    expected = apply(torch.tensor(query), torch.tensor(key), *tables)
    for values, theirs in zip((query, key), expected, strict=True):
        ours = rope_tables(paddle.to_tensor(positions), 8, theta, values.shape[1], "float32", order=order)
        rotated = apply_rope(paddle.to_tensor(values), *ours, order).numpy()
        np.testing.assert_allclose(rotated, theirs.numpy(), atol=1e-4)


def test_half_turn_equals_its_definition_by_slices():
    x = normal(2, 3, 4, 10)
    np.testing.assert_array_equal(
        quarter_turn(paddle.to_tensor(x), "halves").numpy(), np.concatenate([-x[..., 5:], x[..., :5]], -1)
    )


def test_turn_of_pairs_equals_its_definition_by_slices():
    x = normal(2, 3, 4, 10)
    expected = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    np.testing.assert_array_equal(quarter_turn(paddle.to_tensor(x), "pairs").numpy(), expected)


@pytest.mark.parametrize("order", QUARTER_TURNS)
def test_gradients_of_the_rotation_equal_torch(order):
    positions = paddle.to_tensor([[0, 1, 2, 3, 4], [7, 8, 0, 1, 400]])
    cos, sin = rope_tables(positions, 8, 10000.0, 6, "float32", order=order)
    theirs_cos, theirs_sin = torch.tensor(cos.numpy()), torch.tensor(sin.numpy())
    check_gradients(
        lambda x: apply_rope(x, cos, sin, order),
        lambda x: x * theirs_cos + QUARTER_TURNS[order](x) * theirs_sin,
        normal(2, 6, 5, 8),
    )
