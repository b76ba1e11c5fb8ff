"""Products of one row: every way gives the product, and which one is taken is measured or said."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemix.models.cpu import projection
from paddlemix.models.cpu.projection import ALONE, LOOPS, PLAIN, VARIABLE, Choice, Projection, Weights, choose, ways
from paddlemix.ops.row_products import has_kernel

SHAPES = ([24, 16], [25, 7], [1, 5], [64, 1])


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "4")
    monkeypatch.delenv(VARIABLE, raising=False)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_way_is_the_product_of_numpy(shape, is_transposed):
    weight = numbers(*shape)
    row = numbers(1, shape[1] if is_transposed else shape[0])
    expected = row @ (weight.T if is_transposed else weight)
    for name, way in ways(*shape, is_transposed=is_transposed).items():
        if name == LOOPS and not has_kernel("float32"):
            continue
        found = way(paddle.to_tensor(row), paddle.to_tensor(weight))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_there_are_as_many_blocks_as_threads_where_the_rows_allow_it(monkeypatch):
    monkeypatch.setattr(projection, "has_numba", lambda: False)
    found = {rows: list(ways(rows, 2, is_transposed=False)) for rows in (8, 9, 7)}
    assert found == {8: [PLAIN, ALONE, "4 blocks"], 9: [PLAIN, ALONE, "3 blocks"], 7: [PLAIN, ALONE]}
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "64")
    assert list(ways(4096, 2, is_transposed=False)) == [PLAIN, ALONE, f"{projection.MAX_BLOCKS} blocks"]
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "1")
    assert list(ways(4096, 2, is_transposed=False)) == [PLAIN]


def test_the_fastest_way_is_chosen_if_it_gains_enough(monkeypatch):
    speeds = {}
    monkeypatch.setattr(projection, "_measure", lambda weights, found: speeds)
    for number, gain in enumerate((0.5, 1.02, 1.2)):
        speeds = {PLAIN: 1e9, "4 blocks": gain * 1e9}
        choice = choose([paddle.ones([1024 + 4 * number, 512])])
        assert choice.way == ("4 blocks" if gain > 1.1 else PLAIN) and choice.speeds == speeds


def test_a_shape_is_measured_once_and_small_ones_never(monkeypatch):
    measured = []
    monkeypatch.setattr(projection, "_measure", lambda weights, found: measured.append(weights.shape) or {PLAIN: 1.0})
    for _ in range(2):
        choose([paddle.ones([1032, 516]), paddle.ones([1032, 516])])
    assert measured == [(1032, 516)]
    assert choose([paddle.ones([512, 512])]) == Choice((512, 512), PLAIN) and len(measured) == 1


def test_loops_are_compiled_only_where_that_may_pay_or_is_asked_for(monkeypatch):
    tried = []
    monkeypatch.setattr(projection, "has_numba", lambda: True)
    monkeypatch.setattr(projection, "has_kernel", lambda kind: tried.append(kind) or True)
    monkeypatch.setattr(projection, "_measure", lambda weights, found: {name: len(name) for name in found})
    assert LOOPS not in choose([paddle.ones([1056, 512])]).speeds and not tried
    assert LOOPS in choose([paddle.ones([1064, 512])], may_compile=True).speeds and tried == ["float32"]
    monkeypatch.setenv(VARIABLE, LOOPS)
    assert choose([paddle.ones([1072, 512])]).way == LOOPS
    monkeypatch.setattr(projection, "has_kernel", lambda kind: False)
    assert choose([paddle.ones([1080, 512])]).way == PLAIN


def test_a_measurement_is_short_and_finds_a_speed_for_every_way():
    weights = [paddle.ones([640, 512]) for _ in range(3)]
    found = ways(640, 512, is_transposed=False)
    speeds = projection._measure(Weights((640, 512), False, False, 4, weights), found)
    assert speeds.keys() == found.keys() and all(0 < speed < math.inf for speed in speeds.values())


def test_a_variable_replaces_the_measurement(monkeypatch):
    monkeypatch.setattr(projection, "_measure", None)
    for name in (PLAIN, ALONE, "4 blocks"):
        monkeypatch.setenv(VARIABLE, name)
        assert choose([paddle.ones([1040, 512])]) == Choice((1040, 512), name)
    monkeypatch.setenv(VARIABLE, "4 blocks")
    assert choose([paddle.ones([7, 512])]).way == PLAIN  # 7 rows have no 4 blocks


def test_what_was_measured_keeps_no_weight_alive():
    weight = paddle.ones([1048, 512])
    choose([weight])
    alive = weakref.ref(weight)
    del weight
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("has_bias", [False, True])
def test_projections_equal_their_layers(has_bias):
    layer = nn.Linear(24, 16, bias_attr=None if has_bias else False)
    if has_bias:
        layer.bias.set_value(paddle.to_tensor(numbers(16)))
    plain, rows = Projection(layer), paddle.to_tensor(numbers(3, 24))
    expected = layer(rows).numpy()
    with paddle.no_grad():
        for way in ways(24, 16, is_transposed=False):
            plain.use(Choice((24, 16), way))
            np.testing.assert_allclose(plain(rows).numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(plain.few(rows[:1]).numpy(), expected[:1], atol=1e-5)


def test_layers_of_other_kinds_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, rows = Doubled(24, 16), paddle.to_tensor(numbers(3, 24))
    assert not Projection(layer).is_plain
    np.testing.assert_array_equal(Projection(layer)(rows).numpy(), layer(rows).numpy())
    np.testing.assert_array_equal(Projection(layer).few(rows[:1]).numpy(), layer(rows[:1]).numpy())
