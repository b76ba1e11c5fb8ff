"""Strict mode and the audit: training and chat call only operations that an Ascend card has, without CPU fallback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

STEPS = Path(__file__).parent / "tiny_steps.py"
sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks")]
KINDS = ("full", "lora", "pretrain", "packed")
HALF = ("bf16-O2", "fp16-O2")
MISSED = "I1 kernel_factory.cc:1] missing npu kernel:"


def results(done) -> dict:
    """Return the results that tiny_steps printed, by task."""
    assert done.returncode == 0, done.errors[-6000:]
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    return {task: result for line in lines for task, result in line.items()}


@pytest.fixture(scope="module")
def strict(npu_sim, tmp_path_factory):
    tasks = [f"train:{kind}:{dtype}" for kind in KINDS for dtype in HALF]
    tasks += ["train:full:fp32", "train:packed:fp32", "train:full:bf16-O1"]
    tasks += [f"{task}:{dtype}" for task in ("chat", "company") for dtype in ("float32", "float16", "bfloat16")]
    tasks += ["chat:float32:cpu", "company:float32:cpu"]
    script = [STEPS, tmp_path_factory.mktemp("strict"), *tasks]
    done = npu_sim.run(script, is_strict=True, environment={"OMP_NUM_THREADS": "1"}, timeout=900)
    return results(done)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", KINDS)
def test_training_in_16_bits_needs_no_kernel_that_ascend_lacks(strict, kind, dtype):
    losses, wide = strict[f"train:{kind}:{dtype}"], strict[f"train:{'packed' if kind == 'packed' else 'full'}:fp32"]
    np.testing.assert_allclose(losses[0], wide[0], rtol=1e-2)
    assert losses[1] < losses[0] - 0.1, "the step changed nothing"


def test_mixed_precision_of_32_bit_weights_trains(strict):
    np.testing.assert_allclose(strict["train:full:bf16-O1"], strict["train:full:fp32"], rtol=2e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_answers_in_16_bits_need_no_kernel_that_ascend_lacks(strict, dtype):
    found = strict[f"chat:{dtype}"]
    assert [len(ids) for way in ("greedy", "sampled") for ids in found[way]] == [6, 6, 6, 6]
    assert [len(ids) for ids in found["batch"]] == [4, 4]
    assert found["greedy"] != found["sampled"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sequences_side_by_side_in_16_bits_need_no_kernel_that_ascend_lacks(strict, dtype):
    found = strict[f"company:{dtype}"]
    assert [len(ids) for ids in found["answers"] + found["with lookup"]] == [20] * 20
    assert found["stored"] > 0 and found["copied"] > 0, "nothing that was known was copied"


@pytest.mark.parametrize("task", ["chat", "company"])
def test_answers_in_float32_are_those_of_the_cpu(strict, task):
    assert strict[f"{task}:float32"] == strict[f"{task}:float32:cpu"]


def test_guesses_change_no_answer_on_the_device(strict):
    found = strict["company:float32"]
    assert found["with lookup"] == found["answers"] and len(set(map(tuple, found["answers"]))) > 5


@pytest.fixture(scope="module")
def measured(npu_sim):
    import npu_operations

    return npu_operations.measure([*npu_operations.STEPS, "company:bfloat16"])


def test_no_operation_of_training_or_generation_is_missing_or_falls_back_to_the_cpu(measured):
    import audit

    steps = [name for name in measured if name.startswith(("train", "greedy", "sampled", "company"))]
    assert len(steps) == 8
    for name in steps:
        operations, _ = measured[name]
        assert {one.name for one in operations} >= {"matmul", "rms_norm_npu", "fused_rope", "swiglu"}, name
        others = [one for one in operations if one.kind != audit.NATIVE]
        assert not others, (name, others)


def test_a_step_of_decoding_copies_at_most_two_small_tensors_to_the_card(measured):
    for name in ("greedy bfloat16", "sampled bfloat16", "greedy float16", "sampled float16", "four 0 bfloat16"):
        _, copies = measured[name]
        assert 1 <= len(copies) <= 2 and max(copies) <= 64, (name, copies)


def test_audit_distinguishes_native_fallback_and_missing_operations():
    import audit

    log = (
        "== begin step\n"
        f"{MISSED} matmul, expected_kernel_key:(npu, Undefined(AnyLayout), bfloat16), fallbacking\n"
        f"{MISSED} dropout, expected_kernel_key:(npu, Undefined(AnyLayout), bfloat16), fallbacking\n"
        "I1 data_transform.cc:2] DeviceTransform in, src_place Place(cpu) dst_place: Place(npu:0)\n"
        "[sim_npu] copy h2d 99\n[sim_npu] copy h2d 8\n"
        f"{MISSED} topk, expected_kernel_key:(npu, Undefined(AnyLayout), bfloat16), fallbacking\n"
        "== custom fused_rope float16\n== end step\n[sim_npu] copy h2d 7\n"
    )
    dump = "topk cpu32=1 cpu16=0 cpub=0 npu=-\ndropout cpu32=1 cpu16=0 cpub=1 npu=-\n"
    (section,) = audit.sections(log).values()
    kinds = {one.name: (one.count, one.kind) for one in audit.operations(section, dump)}
    assert kinds == {
        "matmul": (1, "native"),
        "dropout": (1, "CPU fallback"),
        "topk": (1, "missing"),
        "fused_rope": (1, "native"),
    }
    assert audit.sent(section) == [8]


def test_kernel_table_is_updated_from_the_backends_sources():
    import update_table

    source = """
    // PD_REGISTER_PLUGIN_KERNEL(gone, npu, ALL_LAYOUT, custom_kernel::GoneKernel, float) {}
    PD_REGISTER_PLUGIN_KERNEL(topk,
                              npu,
                              ALL_LAYOUT,
                              custom_kernel::TopkKernel<T, phi::CustomContext>,
                              float,
                              int64_t,
                              phi::dtype::bfloat16) {}
    PD_REGISTER_PLUGIN_KERNEL(other, mlu, ALL_LAYOUT, custom_kernel::OtherKernel, float) {}
    """
    found = update_table.registered(source)
    assert found == {"topk": ["float", "int64", "bfloat16"]}
    table = 'head\n  {"abs", 1, 0, "float,float16"},\n  {"topk", 1, 0, "float,float16"},\ntail\n'
    assert update_table.updated(table, found | {"new": ["float16"]}) == (
        'head\n  {"abs", 1, 0, "float,float16"},\n  {"new", 1, 0, "float16"},\n'
        '  {"topk", 0, 1, "float,int64,bfloat16"},\ntail\n'
    )
    assert update_table.updated(update_table.TABLE.read_text(), {}) == update_table.TABLE.read_text()
