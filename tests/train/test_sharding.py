"""Settings that fail with several processes are refused before a model is loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddlemix.train.sharding import check_division, check_parallel, write_division

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


def run_of(num_processes: int, degree: int = -1, sharding: str = "", num_shards: int = -1) -> SimpleNamespace:
    """Return the arguments of a run, as far as the division of its optimizer's state follows from them."""
    return SimpleNamespace(
        world_size=num_processes,
        tensor_parallel_degree=degree,
        sharding=sharding,
        sharding_parallel_degree=num_shards,
        ignore_load_lr_and_optim=False,
    )


@pytest.mark.parametrize(
    ("written", "now", "text"),
    [
        (
            run_of(2, 2),
            run_of(1),
            "2 processes of tensor_parallel_degree 2 without sharding, and this is a run of one",
        ),
        (run_of(1), run_of(2, 2), "resume with as many processes and the same tensor_parallel_degree and sharding"),
        (run_of(4, 2), run_of(4, 4), "of tensor_parallel_degree 2 without .* of tensor_parallel_degree 4 without"),
        (run_of(4, 2, "stage1", 2), run_of(2, 2), "processes and the same sharding, or set ignore_load_lr_and_optim"),
    ],
)
def test_state_of_an_optimizer_that_is_divided_otherwise_is_refused(tmp_path, written, now, text):
    write_division(tmp_path, written)
    check_division(tmp_path, written)
    with pytest.raises(ValueError, match=text):
        check_division(tmp_path, now)
    now.ignore_load_lr_and_optim = True
    check_division(tmp_path, now)


def test_state_without_sharding_is_the_same_for_any_number_of_groups(tmp_path):
    write_division(tmp_path, run_of(4, 2))
    check_division(tmp_path, run_of(2, 2))
