"""Products of a few rows with codes and with float32 weights, against NumPy, and what happens without their loops."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix.models.cpu.threads import in_parallel
from paddlemix.ops import compiled_loops, kernel_checks, row_products
from paddlemix.ops import dequantize as on_paddle
from paddlemix.ops.quantize import KINDS, dequantize, quantize
from paddlemix.ops.row_products import MAX_ROWS, has_kernel, product_with_codes, row_times_weight, rows_times_codes

# (out, in): whole parts and tiles; neither; inputs that are no multiple of a block or of two.
SHAPES = [(64, 1024), (45, 1216), (7, 64), (33, 100), (5, 33)]
CACHED = (has_kernel, row_products.report_missing, on_paddle.has_loop, kernel_checks.rejections)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes_of(shape: tuple[int, int], kind: str, seed: int = 0):
    """Return codes in NumPy and as tensors."""
    codes = quantize(normal(*shape, seed=seed), kind)
    return codes, on_paddle.on_device(codes)


def assert_close(found, expected: np.ndarray) -> None:
    found = found.numpy() if isinstance(found, paddle.Tensor) else found
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.fixture
def fresh():
    """Forget which loops were tried, before and after the test."""
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(autouse=True)
def threads(request, monkeypatch):
    """Use this number of threads for loops of any size: the test's parameter, or 2."""
    before = compiled_loops.num_threads()
    monkeypatch.setattr(compiled_loops, "SMALL", 0)
    number = getattr(request, "param", 2)
    paddle.base.core.set_num_threads(number)
    yield number
    paddle.base.core.set_num_threads(before)


@pytest.fixture
def loops():
    pytest.importorskip("numba", reason="compiles the loops")


@pytest.fixture
def runs(loops, monkeypatch):
    """Return the names of the loops that run, as they run."""
    names = []

    def run(loop, *arguments):
        names.append(loop)
        compiled_loops.run(loop, *arguments)

    for kind in KINDS:
        assert has_kernel(kind)
    for module in (row_products, on_paddle):
        monkeypatch.setattr(module, "run", run)
    return names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 16, 17])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_product_with_codes_equals_the_product_with_the_dequantized_weight(shape, num_rows, kind, threads):
    codes, tensors = codes_of(shape, kind)
    rows = normal(num_rows, shape[1], seed=1)
    assert_close(product_with_codes(paddle.to_tensor(rows), tensors), rows @ dequantize(codes).T)


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_use_the_codes_and_many_the_dequantized_weight(kind, runs):
    _, tensors = codes_of((45, 128), kind)
    for num_rows in (1, MAX_ROWS, MAX_ROWS + 1):
        product_with_codes(paddle.ones([num_rows, 128]), tensors)
    assert runs == [f"{kind}_rows", f"{kind}_rows", f"{kind}_weights"]


def test_nf4_codes_whose_blocks_cross_outputs_are_dequantized(runs):
    _, tensors = codes_of((64, 33), "nf4")
    product_with_codes(paddle.ones([1, 33]), tensors)
    assert runs == ["nf4_weights"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [1, 3, 20])
def test_products_with_several_weights_are_side_by_side(kind, num_rows):
    parts = [codes_of((size, 192), kind, seed=size) for size in (40, 33, 8)]
    rows = normal(num_rows, 192, seed=1)
    expected = np.concatenate([rows @ dequantize(codes).T for codes, _ in parts], axis=1)
    assert_close(product_with_codes(paddle.to_tensor(rows), *(tensors for _, tensors in parts)), expected)


def test_leading_axes_and_rows_that_are_not_contiguous_are_kept():
    codes, tensors = codes_of((40, 64), "int8")
    x = normal(2, 3, 64, seed=1)
    assert_close(product_with_codes(paddle.to_tensor(x), tensors), x @ dequantize(codes).T)
    rows = paddle.to_tensor(normal(64, 3, seed=1)).t()
    assert_close(product_with_codes(rows, tensors), rows.numpy() @ dequantize(codes).T)


@pytest.mark.parametrize("kind", KINDS)
def test_infinity_and_nan_reach_the_result(kind):
    _, tensors = codes_of((40, 128), kind)
    rows = np.ones([3, 128], np.float32)
    rows[0, 5], rows[1, 7] = np.nan, np.inf
    for found in (rows, rows[:1], rows[1:2]):
        product = product_with_codes(paddle.to_tensor(found), tensors).numpy()
        assert not np.isfinite(product[0]).any() and (len(found) < 3 or np.isfinite(product[2]).all())


@pytest.mark.parametrize("shape", [(64, 72), (300, 100), (1024, 576)])
@pytest.mark.parametrize("kind", KINDS)
def test_loops_dequantize_to_the_same_bits_as_plain_operations(kind, shape, runs):
    parts = [codes_of(shape, kind, seed=seed)[1] for seed in (0, 1)]
    together = on_paddle.dequantize(parts[0], paddle.float32, parts[1]).numpy()
    assert (runs != []) == (kind == "int8" or shape[0] * shape[1] % 64 == 0)
    plain = [on_paddle.plain_dequantize(codes, paddle.float32).numpy() for codes in parts]
    np.testing.assert_array_equal(together, np.concatenate(plain))
    halves = [
        dequantize_on(parts[0], "float16") for dequantize_on in (on_paddle.dequantize, on_paddle.plain_dequantize)
    ]
    np.testing.assert_array_equal(*(half.numpy() for half in halves))


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33), (301, 333), (1536, 576)])
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_row_times_weight_equals_the_product(shape, loops, threads):
    assert has_kernel("float32")
    row, weight = normal(1, shape[0], seed=1), normal(*shape)
    expected = row @ weight
    assert_close(row_times_weight(paddle.to_tensor(row), paddle.to_tensor(weight)), expected)
    transpose = paddle.to_tensor(np.ascontiguousarray(weight.T))
    assert_close(row_times_weight(paddle.to_tensor(row), transpose, is_transposed=True), expected)


def test_products_in_several_threads_at_once_are_right(loops):
    codes, tensors = codes_of((300, 576), "int8")
    weight = dequantize(codes)
    rows = [normal(1, 576, seed=seed) for seed in range(64)]

    def product(row):
        return rows_times_codes(paddle.to_tensor(row), [tensors]).numpy()

    with ThreadPoolExecutor(4) as pool:
        for row, found in zip(rows, pool.map(product, rows), strict=True):
            assert_close(found, row @ weight.T)


def test_a_worker_with_a_part_of_the_work_uses_one_thread(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    assert compiled_loops.num_threads() == 2
    assert in_parallel(lambda _: compiled_loops.num_threads(), range(4)) == [1] * 4


def test_a_forked_process_multiplies_in_one_thread(loops):
    """The parent has used its threads before the fork; the child could wait for them forever."""
    code = """
import os, numpy as np
from paddlemix.device import prepare_environment, use_device
prepare_environment("cpu")
import paddle
use_device("cpu")
paddle.base.core.set_num_threads(2)
from paddlemix.ops.compiled_loops import num_threads
from paddlemix.ops.row_products import row_times_weight
row, weight = paddle.ones([1, 512]), paddle.ones([512, 512])
assert num_threads() == 2 and (row_times_weight(row, weight).numpy() == 512).all()
child = os.fork()
if child == 0:
    os._exit(0 if num_threads() == 1 and (row_times_weight(row, weight).numpy() == 512).all() else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_numba_plain_operations_are_used_with_one_notice(fresh, monkeypatch, caplog):
    for module in (row_products, on_paddle):
        monkeypatch.setattr(module, "has_numba", lambda: False)
    for kind in KINDS:
        codes, tensors = codes_of((40, 64), kind)
        rows = normal(2, 64, seed=1)
        assert_close(product_with_codes(paddle.to_tensor(rows), tensors), rows @ dequantize(codes).T)
    assert not has_kernel("float32")
    assert caplog.text.count("without numba: pip install 'numba") == 1


def test_nothing_is_reported_without_numba_where_rows_are_many(fresh, monkeypatch, caplog):
    for module in (row_products, on_paddle):
        monkeypatch.setattr(module, "has_numba", lambda: False)
    _, tensors = codes_of((40, 64), "int8")
    product_with_codes(paddle.ones([MAX_ROWS + 1, 64]), tensors)
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [*KINDS, "float32"])
def test_loops_with_wrong_values_are_not_used(kind, loops, fresh, monkeypatch, caplog):
    monkeypatch.setattr(row_products, "run", lambda *arguments: None)
    assert not has_kernel(kind)
    assert "is not used here, other operations replace it" in caplog.text
    if kind in KINDS:
        codes, tensors = codes_of((40, 64), kind)
        rows = normal(1, 64, seed=1)
        assert_close(product_with_codes(paddle.to_tensor(rows), tensors), rows @ dequantize(codes).T)


def test_loops_are_not_used_if_plain_operations_are_demanded(loops, fresh, monkeypatch, caplog):
    monkeypatch.setenv("PADDLEMIX_PLAIN_OPS", "1")
    assert not any(has_kernel(kind) for kind in (*KINDS, "float32")) and not on_paddle.has_loop("nf4")
    assert caplog.text == ""


@pytest.mark.parametrize("features", ["+avx512f,+avx2,+fma", "+avx2,+fma,+avx", "+sse2"])
def test_nf4_values_are_the_same_for_every_kind_of_processor(features, loops):
    """Compiles for processors with smaller registers, as far as this one can run the result."""
    import numba
    from llvmlite.binding import get_host_cpu_features

    host = get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and not all(host.get(name[1:]) for name in features.split(",")):
        pytest.skip("this processor lacks the instructions")
    code = (
        "from paddlemix.device import prepare_environment; prepare_environment('cpu'); "
        "from paddlemix.ops.row_products import has_kernel; from paddlemix.ops.dequantize import has_loop; "
        "assert has_kernel('nf4') and has_loop('nf4')"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
