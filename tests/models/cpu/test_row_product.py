"""A row times a matrix in blocks is the row times the matrix."""

import numpy as np
import paddle
import pytest

from paddlemix.models.cpu import row_product
from paddlemix.models.cpu.row_product import num_blocks, transposed_row_product


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_blocks_give_the_product(blocks):
    rng = np.random.default_rng(0)
    row, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ([1, 24], [24, 16]))
    found = row_product.row_product(paddle.to_tensor(row), paddle.to_tensor(weight), blocks)
    np.testing.assert_allclose(found.numpy(), row @ weight, rtol=1e-5, atol=1e-6)
    found = transposed_row_product(paddle.to_tensor(row), paddle.to_tensor(weight.T.copy()), 2 * blocks)
    np.testing.assert_allclose(found.numpy(), row @ weight, rtol=1e-5, atol=1e-6)


def test_there_are_as_many_blocks_as_threads_where_the_rows_allow_it(monkeypatch):
    monkeypatch.setattr(row_product, "SMALL", 0)
    assert [num_blocks(paddle.ones([rows, 2]), 4) for rows in (8, 9, 7, 1)] == [4, 3, 1, 1]
    assert num_blocks(paddle.ones([4096, 2]), 64) == row_product.MAX_BLOCKS


def test_small_matrices_and_other_types_stay_whole():
    assert num_blocks(paddle.ones([512, 512]), 4) == 1 and num_blocks(paddle.ones([512, 1024]), 4) == 4
    assert num_blocks(paddle.ones([512, 1024], dtype="float16"), 4) == 1


def test_blocks_of_a_matrix_share_its_memory():
    weight = paddle.ones([8, 4])
    assert paddle._C_ops.reshape(weight, [2, 4, 4]).data_ptr() == weight.data_ptr()
