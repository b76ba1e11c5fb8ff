"""MKL's functions equal NumPy's, and are used only where they do."""

from __future__ import annotations

import gc

import numpy as np
import paddle
import pytest

from paddlemix.ops import vector_math
from paddlemix.ops.vector_math import VectorMath, array_of, is_moderate, is_usable, trials

needs_mkl = pytest.mark.skipif(vector_math.vector_math() is None, reason="paddle has no MKL on this platform")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def functions():
    return vector_math.vector_math()


@needs_mkl
def test_functions_equal_numpy_for_odd_sizes_and_extreme_values(functions):
    assert {name for name, is_right in trials(functions) if not is_right} == set()


@needs_mkl
@pytest.mark.parametrize("factor", [1.0, 50.0], ids=["moderate", "extreme"])
def test_exponentials_equal_numpy(functions, factor):
    x = normal(37, 41) * factor
    x[0, 0] = 90.0 if factor > 1.0 else 0.0
    with np.errstate(over="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    assert is_moderate(x) == (factor == 1.0)
    functions.exp(x)
    np.testing.assert_allclose(x, expected, rtol=3e-7, atol=1e-37)


@needs_mkl
def test_exponentials_of_values_that_are_not_finite(functions):
    x = np.array([np.nan, np.inf, -np.inf, -1e9, 0.0], np.float32)
    functions.exp(x)
    np.testing.assert_array_equal(x, np.array([np.nan, np.inf, 0.0, 0.0, 1.0], np.float32))


@needs_mkl
@pytest.mark.parametrize("sizes", [(3, 5, 7), (1, 5, 7), (3, 1, 7), (3, 5, 1), (1, 1, 1)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_products_of_parts_and_transposed_views_equal_numpy(functions, sizes, is_transposed):
    rows, inner, columns = sizes
    x = normal(inner, rows + 2)[:, 1 : rows + 1].T if is_transposed else normal(rows, inner + 2)[:, 1 : inner + 1]
    y = (
        normal(columns + 1, inner, seed=1)[:columns].T
        if is_transposed
        else normal(inner, columns + 3, seed=1)[:, :columns]
    )
    out = normal(rows, columns + 4, seed=2)
    expected = out.copy()
    expected[:, 2 : columns + 2] = 0.5 * (x @ y) + 2.0 * expected[:, 2 : columns + 2]
    functions.matmul(out[:, 2 : columns + 2], x, y, 0.5, 2.0)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@needs_mkl
@pytest.mark.parametrize("shapes", [((3, 4), (3, 5), (4, 4)), ((3, 4), (2, 5), (5, 4))])
def test_products_of_wrong_shapes_are_refused_before_they_reach_memory(functions, shapes):
    with pytest.raises(AssertionError):
        functions.matmul(*(np.zeros(shape, np.float32) for shape in shapes))


@needs_mkl
def test_values_with_any_distance_are_added_to_rows(functions):
    x, values = normal(6, 9), normal(6, 4, seed=1)
    expected = x - 2.0 * values[:, 1:2]
    functions.add_to_rows(x, values[:, 1:2], -2.0)
    np.testing.assert_allclose(x, expected, atol=1e-6)


@needs_mkl
def test_strided_arrays_are_refused_where_memory_must_be_contiguous(functions):
    strided = np.zeros((4, 8), np.float32)[:, ::2]
    for call in (functions.exp, functions.quick_exp, functions.row_sums):
        with pytest.raises(AssertionError):
            call(strided)


@needs_mkl
def test_one_thread_is_used_within_only(functions):
    def limit() -> int:
        """Return the limit of this thread, 0 for none."""
        before = functions.library.MKL_Set_Num_Threads_Local(0)
        functions.library.MKL_Set_Num_Threads_Local(before)
        return before

    functions.library.MKL_Set_Num_Threads_Local(3)
    try:
        with pytest.raises(KeyError), functions.one_thread():
            assert limit() == 1
            raise KeyError
        assert limit() == 3
    finally:
        functions.library.MKL_Set_Num_Threads_Local(0)


def test_array_shares_the_memory_of_a_tensor_and_keeps_it():
    tensor = paddle.arange(12, dtype="float32").reshape([3, 4])
    array = array_of(tensor)
    array[1, 2] = 50.0
    assert float(tensor[1, 2]) == 50.0
    del tensor
    gc.collect()
    more = [paddle.zeros([3, 4]) for _ in range(50)]  # would take the memory if it were free
    assert array[1, 2] == 50.0 and len(more) == 50


@needs_mkl
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32"])
def test_other_dtypes_are_left_to_plain_operations(dtype):
    assert is_usable(paddle.ones([2, 3]))
    assert not is_usable(paddle.ones([2, 3]), paddle.ones([2, 3]).astype(dtype))


@needs_mkl
def test_empty_tensors_are_left_to_plain_operations():
    assert not is_usable(paddle.ones([0, 3]))


@pytest.fixture
def fresh():
    """Forget which functions were found before, now and after the test."""
    vector_math.vector_math.cache_clear()
    yield
    vector_math.vector_math.cache_clear()


def test_missing_library_is_no_error(fresh, monkeypatch):
    monkeypatch.setattr(vector_math, "_load", lambda: None)
    assert vector_math.vector_math() is None and not is_usable(paddle.ones([2, 3]))


def test_variable_for_plain_operations_is_respected(fresh, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_PLAIN_OPS", "1")
    assert vector_math.vector_math() is None


@needs_mkl
def test_library_that_computes_something_else_is_not_used(fresh, monkeypatch, caplog):
    monkeypatch.setattr(VectorMath, "quick_exp", lambda self, x: np.exp2(x, out=x))
    assert vector_math.vector_math() is None
    assert "different values of exp" in caplog.text
