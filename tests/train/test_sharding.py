"""Settings that fail with several processes are refused before a model is loaded."""

from __future__ import annotations

import pytest

from paddlemix.train.sharding import check_parallel

FP16 = {"fp16": True, "fp16_opt_level": "O2"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tensor_parallel_degree": 3}, "tensor_parallel_degree is 3, and there are 4 processes, not a multiple of it"),
        ({"tensor_parallel_degree": 8}, "tensor_parallel_degree is 8, and there are 4 processes"),
        (
            {"tensor_parallel_degree": 2, "sharding": "stage2"},
            "sharding stage2 does not go with tensor",
        ),
        ({"tensor_parallel_degree": 2, "num_eval_answers": 1}, "num_eval_answers needs a whole model"),
        ({"pipeline_parallel_degree": 4}, "pipeline_parallel_degree is 4"),
        ({"sharding": "stage2", "device": "cpu"}, "sharding stage2 needs cards"),
        ({"sharding": "stage1 offload"}, "offload goes with stage2 or stage3"),
        ({"sharding": "stage2 offload"}, "stage3 offload"),
        ({"sharding": "stage2 offload", "bf16": True, "fp16_opt_level": "O2"}, "stage3 offload"),
        ({"sharding": "stage2 offload", **FP16, "amp_master_grad": True}, "stage3 offload"),
        ({"sharding": "stage2 offload", **FP16, "sharding_parallel_degree": 2}, "stage3 offload"),
        ({"sharding": "stage3", "sharding_parallel_degree": 2, "amp_master_grad": True}, "expected 4 or nothing"),
        ({"sharding": "stage3", "num_eval_answers": 2}, "num_eval_answers needs whole weights"),
        ({"sharding": "stage3", "load_best_model_at_end": True}, "load_best_model_at_end needs whole weights"),
    ],
)
def test_settings_at_which_paddle_would_fail_later_are_refused_for_several_processes(asked, words):
    asked = {"device": "npu", **asked}
    with pytest.raises(ValueError, match=words):
        check_parallel(asked, 4)
    check_parallel(asked, 1)


@pytest.mark.parametrize(
    "asked",
    [
        {"sharding": "stage1", "device": "cpu"},
        {"sharding": "stage2 offload", **FP16},
        {"sharding": ["stage3", "offload"], "amp_master_grad": True, "sharding_parallel_degree": 4},
        {"tensor_parallel_degree": 2, "sharding": "stage1"},
        {"tensor_parallel_degree": 4},
        {"tensor_parallel_degree": 1, "sharding_parallel_degree": -1},
    ],
)
def test_supported_settings_are_accepted(asked):
    check_parallel({"device": "npu", **asked}, 4)
