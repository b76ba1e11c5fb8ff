"""Attention in tiles against NumPy and against plain operations, with gradients, in threads and for extreme scores."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import paddle
import pytest

from paddlemix.models.cpu.threads import in_parallel
from paddlemix.ops import packed_attention, plain_attention, tiled_attention, vector_math
from paddlemix.ops.attention import attention
from paddlemix.ops.packed_attention import find_runs
from paddlemix.ops.plain_attention import MASKED, window_bias

pytestmark = pytest.mark.skipif(vector_math.vector_math() is None, reason="paddle has no MKL on this platform")
DIM = 8


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(num_rows: int, num_heads: int, num_kv_heads: int, num_queries: int, num_keys: int, factor: float = 1.0):
    """Return query, key and value; factor: of the queries, so that scores grow with it."""
    query = normal(num_rows, num_heads, num_queries, DIM) * np.float32(factor)
    return query, *(normal(num_rows, num_kv_heads, num_keys, DIM, seed=seed) for seed in (1, 2))


def exact(query, key, value, is_hidden=None, added=0.0, scale=DIM**-0.5) -> np.ndarray:
    """Attend in float64. is_hidden: bool [..., T, S]."""
    group = query.shape[1] // key.shape[1]
    key, value = (np.repeat(x.astype(np.float64), group, axis=1) for x in (key, value))
    scores = query.astype(np.float64) @ key.swapaxes(2, 3) * scale + added
    scores = scores if is_hidden is None else np.where(is_hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


def future(num_queries: int, num_keys: int) -> np.ndarray:
    return np.arange(num_keys)[None] > np.arange(num_queries)[:, None] + num_keys - num_queries


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Make tiles of 4 queries for each head, also of small tensors, and count the calls."""
    calls = []
    take = tiled_attention._forward
    monkeypatch.setattr(tiled_attention, "_forward", lambda *given: calls.append(1) or take(*given))
    for name, value in {"FEWEST_QUERIES": 1, "FEWEST_SCORES": 0, "MIN_QUERIES": 4, "MAX_ROWS": 4}.items():
        monkeypatch.setattr(tiled_attention, name, value)
    return calls


@pytest.fixture
def plain(monkeypatch):
    """Return a function that runs another one without tiles."""

    def run(function, *given):
        with monkeypatch.context() as patch:
            patch.setattr(vector_math, "_load", lambda: None)
            vector_math.vector_math.cache_clear()
            result = function(*given)
        vector_math.vector_math.cache_clear()
        return result

    return run


@pytest.mark.parametrize("factor", [1.0, 100.0, 1e4], ids=["moderate", "large", "one key a query"])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (4, 4), (5, 5), (13, 13), (6, 29), (1, 29)])
@pytest.mark.parametrize("num_kv_heads", [6, 2, 1])
@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "all"])
def test_tiles_equal_numpy(is_causal, num_kv_heads, num_queries, num_keys, factor, small_tiles):
    arrays = inputs(2, 6, num_kv_heads, num_queries, num_keys, factor)
    out = attention(*map(paddle.to_tensor, arrays), is_causal=is_causal).numpy()
    expected = exact(*arrays, future(num_queries, num_keys) if is_causal else None)
    np.testing.assert_allclose(out, expected, atol=2e-6 * factor if factor < 1e4 else 1e-3)
    assert small_tiles


@pytest.mark.parametrize("factor", [1.0, 60.0], ids=["moderate", "large"])
@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)], ids=["all trained", "query frozen", "key and value frozen"])
def test_gradients_equal_those_of_plain_operations(plain, is_causal, factor, frozen, small_tiles):
    arrays, slopes = inputs(2, 6, 2, 13, 17, factor), paddle.to_tensor(normal(2, 6, 13, DIM, seed=5))

    def gradients():
        tensors = [paddle.to_tensor(x, stop_gradient=number in frozen) for number, x in enumerate(arrays)]
        out = attention(*tensors, is_causal=is_causal, scale=0.3)
        (out * slopes).sum().backward()
        return [out, *(tensor.grad for tensor in tensors)]

    expected = plain(gradients)
    assert not small_tiles
    for found, one in zip(gradients(), expected, strict=True):
        assert (found is None) == (one is None)
        if one is not None:
            np.testing.assert_allclose(found.numpy(), one.numpy(), atol=2e-5 * max(np.abs(one.numpy()).max(), 1.0))
    assert small_tiles


@pytest.mark.parametrize("shape", [(2, 6, 9, 14), (1, 1, 9, 14), (2, 1, 9, 14), (1, 6, 1, 14)])
@pytest.mark.parametrize("is_trained", [False, True])
def test_biases_of_any_shape_are_added(shape, is_trained, small_tiles):
    arrays, bias = inputs(2, 6, 2, 9, 14), normal(*shape, seed=4)
    bias[..., 3] = MASKED
    query, key, value = (paddle.to_tensor(x, stop_gradient=not is_trained) for x in arrays)
    out = attention(query, key, value, bias=paddle.to_tensor(bias)).numpy()
    np.testing.assert_allclose(out, exact(*arrays, added=bias.astype(np.float64)), atol=2e-6)
    assert small_tiles


def test_gradient_with_a_mask_equals_that_of_plain_operations(plain):
    arrays, bias = inputs(1, 4, 2, 11, 11), window_bias(11, 11, 3)

    def gradients():
        tensors = [paddle.to_tensor(x, stop_gradient=False) for x in arrays]
        (attention(*tensors, bias=bias) ** 2).sum().backward()
        return [tensor.grad.numpy() for tensor in tensors]

    for found, one in zip(gradients(), plain(gradients), strict=True):
        np.testing.assert_allclose(found, one, atol=1e-5)


def test_bias_that_is_trained_is_left_to_plain_operations(small_tiles):
    tensors, bias = map(paddle.to_tensor, inputs(1, 2, 2, 5, 5)), paddle.zeros([1, 2, 5, 5])
    bias.stop_gradient = False
    attention(*tensors, bias=bias).sum().backward()
    assert bias.grad is not None and not small_tiles


def test_keys_in_the_future_have_no_influence_however_large_their_scores():
    query, key, value = inputs(1, 2, 1, 12, 12)
    expected = attention(*map(paddle.to_tensor, (query, key, value)), is_causal=True).numpy()[:, :, :9]
    key[:, :, 9:] *= 1e6
    out = attention(*map(paddle.to_tensor, (query, key, value)), is_causal=True).numpy()[:, :, :9]
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_row_in_which_everything_is_masked_stays_finite_in_tiles():
    tensors = map(paddle.to_tensor, inputs(1, 2, 2, 5, 5))
    assert np.isfinite(attention(*tensors, bias=paddle.full([1, 1, 5, 5], MASKED)).numpy()).all()


def test_query_that_is_not_a_number_spoils_its_own_output_only():
    query, key, value = inputs(1, 2, 2, 9, 9)
    query[0, 1, 4, 0] = np.nan
    is_spoilt = np.isnan(attention(*map(paddle.to_tensor, (query, key, value)), is_causal=True).numpy())
    assert is_spoilt[0, 1, 4].all() and is_spoilt.sum() == DIM


@pytest.mark.parametrize("is_trained", [False, True])
def test_packed_samples_see_only_themselves_and_padding_is_zero(is_trained, plain, small_tiles):
    segments = np.zeros([2, 21], np.int64)
    segments[0, :9], segments[0, 9:10], segments[0, 10:18], segments[1, 4:] = 1, 2, 3, 1
    arrays, slopes = inputs(2, 4, 2, 21, 21), normal(2, 4, 21, DIM, seed=7)
    slopes[np.broadcast_to((segments == 0)[:, None, :, None], slopes.shape)] = 0.0

    def run():
        tensors = [paddle.to_tensor(x, stop_gradient=not is_trained) for x in arrays]
        out = packed_attention.packed_attention(*tensors, find_runs(segments))
        if is_trained:
            (out * paddle.to_tensor(slopes)).sum().backward()
        return [out.numpy(), *(tensor.grad.numpy() for tensor in tensors if is_trained)]

    expected = plain(run)
    assert not small_tiles
    found = run()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert small_tiles == [1] and not found[0][:, :, :4][1].any()


@pytest.mark.parametrize("window", [3, 30])
def test_packed_samples_with_a_window_equal_plain_operations(window, plain):
    segments = np.repeat([[1, 2]], [9, 12], axis=1)
    tensors = [paddle.to_tensor(x) for x in inputs(1, 4, 2, 21, 21)]
    runs = packed_attention.Runs(find_runs(segments).rows, window)

    def run():
        return packed_attention.packed_attention(*tensors, runs).numpy()

    np.testing.assert_allclose(run(), plain(run), atol=1e-5)


def test_worker_threads_get_the_same_values(monkeypatch, small_tiles):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "3")
    given = [tuple(map(paddle.to_tensor, inputs(1, 6, 2, length, length))) for length in range(5, 40)]
    expected = [attention(*one, is_causal=True).numpy() for one in given]
    small_tiles.clear()
    found = in_parallel(lambda one: attention(*one, is_causal=True).numpy(), given)
    assert len(small_tiles) == len(given)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_inputs_stay_as_they_were():
    arrays = inputs(1, 4, 2, 9, 9)
    tensors = [paddle.to_tensor(x, stop_gradient=False) for x in arrays]
    attention(*tensors, is_causal=True).sum().backward()
    for tensor, values in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), values)


def test_result_is_freed_without_a_backward_pass():
    tensors = [paddle.to_tensor(x, stop_gradient=False) for x in inputs(1, 4, 2, 9, 9)]
    freed = []
    weakref.finalize(attention(*tensors, is_causal=True), freed.append, True)
    gc.collect()
    assert freed


@pytest.mark.parametrize("block", [4, 256])
def test_missing_library_gives_the_same_values(block, plain, small_tiles):
    tensors = [paddle.to_tensor(x) for x in inputs(2, 6, 2, 13, 17)]

    def run():
        return plain_attention.plain_attention(*tensors, is_causal=True, block=block).numpy()

    found = run()
    assert small_tiles == [1]
    np.testing.assert_allclose(plain(run), found, atol=2e-6)
    assert small_tiles == [1]


def test_tiny_tasks_are_left_to_plain_operations(monkeypatch, small_tiles):
    monkeypatch.setattr(tiled_attention, "FEWEST_SCORES", 6 * 13 * 13 + 1)
    attention(*map(paddle.to_tensor, inputs(1, 6, 2, 13, 13)), is_causal=True)
    assert not small_tiles


def test_layers_share_no_mask_where_tiles_need_none(monkeypatch):
    from paddlemix.ops.attention import shared_mask

    assert shared_mask(None, 1, 7, 2, paddle.zeros([1, 7, DIM])) is None
    monkeypatch.setattr(tiled_attention, "FEWEST_SCORES", 1000)
    assert shared_mask(None, 1, 7, 2, paddle.zeros([1, 7, DIM])) is not None
