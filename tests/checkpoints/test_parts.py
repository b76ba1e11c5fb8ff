"""A card reads its part of each tensor, bit for bit, and only that."""

from __future__ import annotations

import numpy as np
import pytest

from paddlemix.checkpoints.parts import cut_tensors
from paddlemix.checkpoints.quantized import to_codes
from paddlemix.models.parallel.cards import Cards
from paddlemix.ops.quantize import BLOCK, dequantize
from paddlemix.tensor_files.stored import CheckpointError, StoredTensor, from_array
from paddlemix.tensor_files.transforms import cast, transposed

COLUMN, ROW = "language_model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.down_proj.weight"
HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.embed_tokens.weight"


def matrix(num_in: int, num_out: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal([num_in, num_out]).astype(np.float32)


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize(("name", "axis"), [(COLUMN, 1), (ROW, 0), (HEAD, 1), (EMBEDDING, 0)])
@pytest.mark.parametrize("make", [from_array, lambda values: transposed(cast(from_array(values.T), "float16"))])
def test_the_parts_of_all_cards_side_by_side_are_the_tensor(name, axis, degree, make):
    tensor = make(matrix(24, 31))
    parts = [cut_tensors({name: tensor}, Cards(rank, degree, None))[name] for rank in range(degree)]
    assert all(part.values.shape == tuple(part.shape) for part in parts)
    assert np.array_equal(np.concatenate([part.values for part in parts], axis), tensor.values)
    assert np.array_equal(np.concatenate([np.concatenate(list(part.blocks())) for part in parts], axis), tensor.values)


def test_tensors_that_are_whole_on_every_card_stay():
    tensors = {name: from_array(matrix(4, 4)) for name in ("projector.0.weight", "language_model.norm.weight")}
    assert cut_tensors(tensors, Cards(1, 2, None)) == tensors


def test_only_the_part_of_a_mapped_tensor_is_read():
    seen = []

    class Watched(np.ndarray):
        def __getitem__(self, item):
            seen.append(item)
            return super().__getitem__(item)

    values = matrix(8, 6).view(Watched)
    part = cut_tensors({ROW: StoredTensor("float32", (8, 6), lambda: values)}, Cards(1, 2, None))[ROW]
    assert part.values.base is not None and seen[0] == (slice(4, 8), slice(0, 6))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", [COLUMN, ROW])
@pytest.mark.parametrize(("num_in", "num_out"), [(8 * BLOCK, 72), (12 * BLOCK, 10), (1024 * BLOCK, 4)])
def test_codes_of_parts_have_the_values_of_the_codes_of_the_whole(kind, name, num_in, num_out):
    tensor = transposed(from_array(matrix(num_in, num_out).T.copy()))
    whole = dequantize(to_codes(name, tensor, kind)[0])
    parts = [cut_tensors({name: tensor}, Cards(rank, 2, None))[name] for rank in range(2)]
    cut = [dequantize(to_codes(name, part, kind)[0]) for part in parts]
    assert np.array_equal(np.concatenate(cut, 0 if name == COLUMN else 1), whole)


def test_nf4_blocks_that_would_be_cut_are_refused():
    part = cut_tensors({ROW: from_array(matrix(3 * BLOCK, 8))}, Cards(0, 2, None))[ROW]
    with pytest.raises(CheckpointError, match="its 192 inputs cannot be cut at 0 and 96 in nf4"):
        to_codes(ROW, part, "nf4")
