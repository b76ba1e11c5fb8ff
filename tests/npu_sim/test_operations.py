"""Operations on the simulated device: every path gives what NumPy gives, the plugin's kernels where there are some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LIMITS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
CHECK = Path(__file__).parent / "check_operations.py"
KINDS = ("new", "old", "none", "plain")


@pytest.fixture(scope="module", params=KINDS)
def checked(request, npu_sim):
    """Return what check_operations found with the newer or older attention, with none, and without any kernel."""
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


def test_the_plugins_kernels_are_used_where_there_are_some(checked):
    kind, found, _ = checked
    calls, complaints = found["calls"], found["complaints"]
    if kind == "plain":
        assert not calls and not any(complaints.values())
        return
    # The first call for a dtype is the try; rotary has two lengths.
    assert (calls["rms_norm_npu"], calls["fused_rope"]) == (6, 9)
    assert not complaints["rms_norm_npu"] and not complaints["fused_rope"]
    is_used = {"new": (True, True), "old": (True, False), "none": (False, False)}[kind]
    assert (not complaints["flash_attention_npu"], not complaints["flash_attention_npu (pieces)"]) == is_used


def test_what_is_not_used_is_told_once_with_the_reason(checked):
    kind, _, text = checked
    told = [line for line in text.splitlines() if "is not used here" in line]
    expected = {"new": 0, "plain": 0, "old": 1, "none": 2}[kind]
    assert len(told) == expected, told
    if kind == "old":
        assert "flash_attention_npu (pieces)" in told[0] and "before 2025" in told[0]
    if kind == "none":
        assert all("the device's plugin has no such operation" in line for line in told)
