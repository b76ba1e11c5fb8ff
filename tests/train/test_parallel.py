"""What several processes cannot do is refused before a model is loaded, and divided checkpoints are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddlenlp.trainer.trainer_utils import ShardingOption

from paddlemix.checkpoints.files import CheckpointError
from paddlemix.models.loss import weighted_loss
from paddlemix.train.parallel import check_parallel, check_parts, note_parts

FP16 = {"fp16": True, "fp16_opt_level": "O2"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tensor_parallel_degree": 2}, "tensor_parallel_degree is 2: layers are not cut"),
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
def test_what_paddle_would_fail_at_later_is_refused_in_several_processes(asked, words):
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
        {"tensor_parallel_degree": 1, "sharding_parallel_degree": -1},
    ],
)
def test_what_works_is_let_through(asked):
    check_parallel({"device": "npu", **asked}, 4)


@pytest.mark.parametrize("key", ["sep_parallel_degree", "context_parallel_degree"])
def test_what_fails_in_one_process_is_refused_there(key):
    with pytest.raises(ValueError, match=f"{key} is 2: layers are not cut"):
        check_parallel({key: 2, "device": "cpu"}, 1)
    check_parallel({key: 1, "tensor_parallel_degree": 2, "device": "cpu"}, 1)


def arguments(num_processes: int, *sharding: str, is_fresh: bool = False):
    options = [ShardingOption(word) for word in sharding]
    degree = num_processes if sharding else -1
    return SimpleNamespace(
        world_size=num_processes, sharding=options, sharding_parallel_degree=degree, ignore_load_lr_and_optim=is_fresh
    )


@pytest.mark.parametrize("now", [arguments(1), arguments(4, "stage2"), arguments(2, "stage1"), arguments(2)])
def test_a_divided_optimizer_state_goes_on_as_it_was_divided_only(tmp_path, now):
    note_parts(tmp_path, arguments(2, "stage2", "offload"))
    check_parts(tmp_path, arguments(2, "stage2"))
    check_parts(tmp_path, arguments(1, is_fresh=True))
    with pytest.raises(ValueError, match="of 2 processes with sharding stage2 over 2, and this is a run of"):
        check_parts(tmp_path, now)


def test_a_whole_optimizer_state_goes_on_in_any_number_of_processes(tmp_path):
    note_parts(tmp_path, arguments(2))
    check_parts(tmp_path, arguments(1))
    check_parts(tmp_path, arguments(4))
    with pytest.raises(ValueError, match="2 processes without sharding, and this is a run of 2 processes with"):
        check_parts(tmp_path, arguments(2, "stage1"))


@pytest.mark.parametrize("text", ["{}", '{"num_processes": "2", "sharding": "", "sharding_parallel_degree": 1}'])
def test_a_damaged_note_of_the_division_is_one_line(tmp_path, text):
    (tmp_path / "processes.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"processes\.json: num_processes is .*, expected a whole number"):
        check_parts(tmp_path, arguments(1))


@pytest.mark.parametrize("num_trained", [0, 1, 5])
def test_a_head_that_is_called_once_gives_the_same_loss(monkeypatch, num_trained):
    monkeypatch.setattr("paddlemix.models.loss.MAX_LOGITS", 2 * 7)  # two tokens at a time
    generator = np.random.default_rng(0)
    hidden = paddle.to_tensor(generator.normal(size=[1, 6, 3]).astype("float32"), stop_gradient=False)
    matrix = paddle.to_tensor(generator.normal(size=[3, 7]).astype("float32"), stop_gradient=False)
    labels = np.full([1, 6], -100)
    labels[0, 1 : 1 + num_trained] = generator.integers(0, 7, num_trained)
    calls = []

    def head(x):
        calls.append(len(x))
        return x @ matrix

    usual = weighted_loss(hidden, labels, None, head, 7)
    calls.clear()
    once = weighted_loss(hidden, labels, None, head, 7, is_once=True)
    assert calls == [max(num_trained, 1)]
    assert float(once) == pytest.approx(float(usual), rel=1e-6)
    once.backward()
    assert matrix.grad is not None and bool(paddle.isfinite(matrix.grad).all())
