"""Every implementation of an operation equals NumPy on the simulated device, the plugin's kernels included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LIMITS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
CHECK = Path(__file__).parent / "check_operations.py"
KINDS = ("new", "old", "none", "plain")


@pytest.fixture(scope="module", params=KINDS)
def checked(request, npu_sim):
    """Return what check_operations prints with new, old or no attention kernels, or with plain operations."""
    variables = {"PADDLEMIX_PLAIN_OPS": "1"} if request.param == "plain" else {"SIM_NPU_ATTENTION": request.param}
    done = npu_sim.run([CHECK, ",".join(LIMITS)], environment={**variables, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.errors
    return request.param, json.loads(done.output.splitlines()[-1]), done.text


def test_every_operation_equals_numpy_forward_and_backward(checked):
    _, found, _ = checked
    errors = found["errors"]
    assert {dtype: len(of_dtype) for dtype, of_dtype in errors.items()} == dict.fromkeys(LIMITS, 9)
    wrong = {
        (dtype, name): error
        for dtype, of_dtype in errors.items()
        for name, error in of_dtype.items()
        if not error <= LIMITS[dtype]
    }
    assert not wrong


def test_the_plugins_kernels_are_used_if_it_has_them(checked):
    kind, found, _ = checked
    calls, rejections = found["calls"], found["rejections"]
    if kind == "plain":
        assert not calls and not any(rejections.values())
        return
    # The first call for each dtype is the trial; RoPE is checked with two lengths.
    assert (calls["rms_norm_npu"], calls["fused_rope"]) == (6, 9)
    assert not rejections["rms_norm_npu"] and not rejections["fused_rope"]
    is_used = {"new": (True, True), "old": (True, False), "none": (False, False)}[kind]
    assert (not rejections["flash_attention_npu"], not rejections["flash_attention_npu (pieces)"]) == is_used


def test_each_unused_kernel_is_reported_once_with_the_reason(checked):
    kind, _, text = checked
    notices = [line for line in text.splitlines() if "is not used here" in line]
    expected = {"new": 0, "plain": 0, "old": 1, "none": 2}[kind]
    assert len(notices) == expected, notices
    if kind == "old":
        assert "flash_attention_npu (pieces)" in notices[0] and "before 2025" in notices[0]
    if kind == "none":
        assert all("the device's plugin has no such operation" in line for line in notices)
