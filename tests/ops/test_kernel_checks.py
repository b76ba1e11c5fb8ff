"""When the kernels of CUDA and Ascend are called and with which arguments, by fakes on the CPU."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import paddle
import pytest

from paddlemix.ops import activation, kernel_checks, packed_attention, rms_norm
from paddlemix.ops import attention as attention_module
from paddlemix.ops import flash_attention as flash
from paddlemix.ops.attention import attention, kernel_mask, shared_mask
from paddlemix.ops.kernel_checks import wants_own_gradient
from paddlemix.ops.packed_attention import find_runs
from paddlemix.ops.plain_attention import MASKED, plain_attention

SEGMENTS = np.array([[1] * 5 + [2] * 3 + [3] * 4, [0, 0] + [1] * 6 + [0] + [2] * 3])
CACHED = (flash._is_right, rms_norm.has_kernel, activation.has_kernel, kernel_checks.rejections)


def normal(*shape: int, seed: int):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that tensors are on CUDA and float32 has 16 bits, replace Paddle's kernels; return their calls."""
    calls = []

    def run(query, key, value, causal):
        calls.append((tuple(query.shape), causal))
        heads_first = [x.transpose([0, 2, 1, 3]) for x in (query, key, value)]
        return plain_attention(*heads_first, is_causal=causal).transpose([0, 2, 1, 3])

    def unpadded(query, key, value, edges, key_edges, longest, longest_key, scale, causal):
        assert edges is key_edges and str(edges.dtype) == "paddle.int32" and causal and longest == longest_key
        ends = edges.numpy()
        assert longest == np.diff(ends).max() and scale == pytest.approx(query.shape[2] ** -0.5)
        pieces = [slice(int(start), int(end)) for start, end in itertools.pairwise(ends)]
        outs = [run(query[one].unsqueeze(0), key[one].unsqueeze(0), value[one].unsqueeze(0), True)[0] for one in pieces]
        return paddle.concat(outs), None

    for function in CACHED:
        function.cache_clear()
    for module in (flash, attention_module, packed_attention, rms_norm, activation):
        monkeypatch.setattr(module, "kind_of", lambda tensor: "gpu")
    monkeypatch.setattr(flash, "HALF", ("float32",))
    monkeypatch.setattr(flash.cuda, "flash_attention", lambda q, k, v, causal: (run(q, k, v, causal), None))
    monkeypatch.setattr(flash.cuda, "flash_attn_unpadded", unpadded)
    yield calls
    for function in CACHED:
        function.cache_clear()


def inputs(length: int = 12, num_rows: int = 2):
    return [normal(num_rows, heads, length, 8, seed=seed) for seed, heads in enumerate((4, 2, 2))]


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2])
def test_cuda_kernel_is_used_for_one_sample_and_for_several(cuda, is_causal, num_rows):
    tensors = inputs(num_rows=num_rows)
    expected = plain_attention(*tensors, is_causal=is_causal, scale=0.2)
    found = attention(*tensors, is_causal=is_causal, scale=0.2)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert cuda[-1] == ((num_rows, 12, 4, 8), is_causal)


def test_padded_batches_have_no_mask_on_cuda_so_that_its_kernel_can_be_used(cuda):
    assert shared_mask(None, 2, 12, 4, inputs()[0]) is None
    assert shared_mask(None, 2, 12, 4) is not None


def test_cuda_kernel_reads_packed_rows_as_pieces(cuda):
    tensors = inputs()
    runs = find_runs(SEGMENTS)
    found = packed_attention.packed_attention(*tensors, runs).numpy()
    assert [shape[1] for shape, _ in cuda[-7:]] == [5, 3, 4, 2, 6, 1, 3], "padding is a piece too"
    for row, pieces in enumerate(runs.rows):
        for start, end in pieces:
            part = [x[row : row + 1, :, start:end] for x in tensors]
            expected = plain_attention(*part, is_causal=True).numpy()
            np.testing.assert_allclose(found[row : row + 1, :, start:end], expected, atol=1e-5)


def test_plain_operations_replace_missing_cuda_kernels(cuda):
    query, key, value = inputs()
    bias = normal(1, 1, 12, 12, seed=9)
    hidden = kernel_mask((bias > 0).astype("float32") * MASKED, query, 8)
    assert hidden.dtype == paddle.float32, "it has no kernel for masks"
    for options in ({"bias": bias}, {"bias": bias > 0}, {"is_causal": True, "key_bias": normal(1, 4, 1, 12, seed=8)}):
        attention(query, key, value, **options)
    attention(query[:, :, :5], key, value, is_causal=True)
    attention(query[:, :, :1], key, value)
    assert not cuda


def test_kernel_with_wrong_values_is_not_used_and_reported_once(cuda, monkeypatch, capsys):
    monkeypatch.setattr(kernel_checks, "notice", print)
    monkeypatch.setattr(flash.cuda, "flash_attention", lambda q, k, v, causal: (q + k + v, None))
    tensors = inputs()
    for is_causal in (True, False):
        expected = plain_attention(*tensors, is_causal=is_causal).numpy()
        np.testing.assert_array_equal(attention(*tensors, is_causal=is_causal).numpy(), expected)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "flash attention is not used here" in lines[0] and "differ by up to" in lines[0]


def test_kernel_without_a_gradient_is_used_only_without_gradients(cuda, monkeypatch):
    calls = []

    def fused(x, weight, bias, epsilon, begin_norm_axis):
        calls.append(begin_norm_axis)
        return (rms_norm.plain_rms_norm(x, weight, epsilon).detach(), None)

    monkeypatch.setattr(rms_norm, "fused_rms_norm", fused)
    x, weight = normal(2, 3, 8, seed=0), normal(8, seed=1)
    expected = rms_norm.plain_rms_norm(x, weight, 1e-5).numpy()
    np.testing.assert_allclose(rms_norm.rms_norm(x, weight, 1e-5).numpy(), expected, atol=1e-6)
    assert calls == [2, 2], "the trial and the call"
    weight.stop_gradient = False
    rms_norm.rms_norm(x, weight, 1e-5).sum().backward()
    assert len(calls) == 2 and weight.grad is not None
    with paddle.no_grad():
        rms_norm.rms_norm(x, weight, 1e-5)
    assert len(calls) == 3


def test_trials_of_kernels_leave_the_random_state_alone(cuda):
    paddle.seed(3)
    expected = paddle.randn([4]).numpy()
    paddle.seed(3)
    attention(*inputs(), is_causal=True)
    np.testing.assert_array_equal(paddle.randn([4]).numpy(), expected)


def test_environment_variable_disables_kernels(cuda, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_PLAIN_OPS", "1")
    attention(*inputs(), is_causal=True)
    assert not cuda


def test_custom_operation_without_a_plugin_raises_an_expected_failure():
    run = functools.partial(kernel_checks.run_custom, "rms_norm_npu", paddle.ones([1, 2]), paddle.ones([2]), 1e-5)
    with pytest.raises(kernel_checks.FAILURES):
        run()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_have_automatic_gradients(dtype):
    assert not wants_own_gradient(paddle.ones([2]).astype(dtype))


def test_own_gradients_are_used_only_in_training():
    x = paddle.to_tensor(normal(2, 4, seed=0), stop_gradient=False)
    with paddle.no_grad():
        assert not wants_own_gradient(x)
    assert not wants_own_gradient(x.detach())
