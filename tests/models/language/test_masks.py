"""ALiBi against transformers."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from paddlemix.models.language.masks import alibi_bias, alibi_slopes


@pytest.mark.parametrize("num_heads", [1, 2, 6, 8, 12, 32, 112])
def test_alibi_equals_transformers_up_to_a_constant_of_the_query(num_heads):
    theirs = build_mpt_alibi_tensor(num_heads, 40)[:, 0].numpy()
    ours = alibi_bias(alibi_slopes(num_heads), 40, 33)[0, :, 0]
    np.testing.assert_allclose(ours - ours[:, -1:], theirs, atol=1e-5)
    assert (ours[:, 33] == 0).all()
