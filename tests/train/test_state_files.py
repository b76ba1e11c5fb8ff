"""The files of a run's state: paddle loads them, they are read back equal, and reading takes bounded time."""

from __future__ import annotations

import pickle
import random
import re

import numpy as np
import paddle
import pytest

from paddlemix.tensor_files.pickle_reader import PickleReader
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train.arguments import check_supported, parse
from paddlemix.train.optimizer import read_optimizer, write_optimizer
from paddlemix.train.processes import fail_together
from paddlemix.train.random_state import (
    random_state,
    read_random_state,
    set_random_state,
    write_random_state,
)
from paddlemix.train.run_state import read_scaler, read_schedule, write_plain
from paddlemix.train.sharding import UpdatedParameter

HALF = UpdatedParameter("w", (2, 3), needs_master=True)
PLAIN = UpdatedParameter("b", (3,), needs_master=False)
SCALER = {
    "scale": np.array([1024.0], np.float32),
    "incr_ratio": 2.0,
    "decr_ratio": 0.5,
    "incr_every_n_steps": 1000,
    "decr_every_n_nan_or_inf": 2,
    "incr_count": 1,
    "decr_count": 0,
    "use_dynamic_loss_scaling": True,
}


@pytest.fixture
def optimizer():
    """Return AdamW after a step over a bfloat16 weight, with its float32 copy, and a float32 bias."""
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        weight, bias = paddle.create_parameter([2, 3], "float32"), paddle.create_parameter([3], "float32")
        weight.name, bias.name = "w", "b"
        schedule = paddle.optimizer.lr.LambdaDecay(0.1, lambda step: 1.0)
        made = paddle.optimizer.AdamW(schedule, parameters=[weight, bias])
        (weight.sum() + bias.sum()).backward()
        made.step()
        # CPUs take no step in half precision: give the state the names that such a step would give.
        state = {re.sub("^w_", "w_fp32_master_0_", name): value for name, value in made.state_dict().items()}
    for name, value in state.items():
        if isinstance(value, paddle.Tensor):
            value.name = name
    master = weight.detach().clone()
    master.name = "w_fp32_master_0"
    return {**state, "master_weights": {"w": master}}


def _plain(value):
    """Return what paddle loaded as something to compare: tensors become their names, dtypes and bytes."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return (value.name, str(value.dtype), value.numpy().tobytes()) if isinstance(value, paddle.Tensor) else value


def test_a_written_optimizer_is_loaded_by_paddle_as_its_own_file(optimizer, tmp_path):
    paddle.save(optimizer, str(tmp_path / "theirs"))
    write_optimizer(tmp_path / "ours", optimizer, {})
    theirs, ours = (paddle.load(str(tmp_path / name)) for name in ("theirs", "ours"))
    assert _plain(ours) == _plain(theirs)
    assert ours["master_weights"]["w"].name == "w_fp32_master_0"


@pytest.mark.parametrize("writer", ["theirs", "ours", "protocol 2"])
def test_an_optimizer_is_read_as_paddle_loads_it(optimizer, tmp_path, writer):
    path = tmp_path / "optimizer.pdopt"
    if writer == "ours":
        write_optimizer(path, optimizer, {})
    else:
        paddle.save(optimizer, str(path), protocol=2 if writer == "protocol 2" else 4)
    state = read_optimizer(path, [HALF, PLAIN], [HALF, PLAIN], "adamw")
    assert state.schedule == optimizer["LR_Scheduler"]
    read, expected = state.tensors(), paddle.load(str(path))
    assert set(read) == set(expected) - {"LR_Scheduler"}
    for name, value in expected.items():
        if isinstance(value, paddle.Tensor):
            assert read[name].numpy().tobytes() == value.numpy().tobytes()
    assert _plain(read["master_weights"]) == _plain(expected["master_weights"])


def test_a_half_weight_without_its_float32_copy_is_refused(optimizer, tmp_path):
    del optimizer["master_weights"]
    write_optimizer(tmp_path / "x", optimizer, {})
    with pytest.raises(CheckpointError, match="it lacks master_weights of 1 weights in half precision: w"):
        read_optimizer(tmp_path / "x", [HALF, PLAIN], [HALF, PLAIN], "adamw")


def test_the_part_of_another_process_is_refused(optimizer, tmp_path):
    write_optimizer(tmp_path / "x", optimizer, {})
    with pytest.raises(CheckpointError, match="4 are unrecognized: b_beta1_pow_acc_0"):
        read_optimizer(tmp_path / "x", [HALF], [HALF, PLAIN], "adamw")


def draw() -> tuple:
    return random.random(), float(np.random.rand()), random.gauss(0, 1), paddle.rand([3]).tolist()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_random_numbers_continue_where_they_were(tmp_path, num_processes):
    np.random.randn()  # draws a second normal number ahead
    state = random_state(is_tracked=False)
    expected = draw()
    write_random_state(tmp_path / "ours", [state] * 2 if num_processes > 1 else state)
    paddle.save([state] * 2 if num_processes > 1 else state, str(tmp_path / "theirs"))
    for name in ("ours", "theirs"):
        draw()
        set_random_state(read_random_state(tmp_path / name, 1 if num_processes > 1 else 0, num_processes, False))
        assert draw() == expected


def _engine(state: dict, change) -> None:
    """Change the state of paddle's generator."""
    made = type(state["cpu"]).__new__(type(state["cpu"]))
    made.__setstate__(change(*state["cpu"].__getstate__()))
    state["cpu"] = made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.update(python=(3, (1, 2), None)), "'python' is a tuple of 3"),
        (lambda state: state.update(python=(3, (2**40,) * 624 + (1,), None)), "'python' holds values other than"),
        (lambda state: state.update(python=(3, (1,) * 624 + (999,), None)), "position is 999"),
        (lambda state: state.update(numpy=("MT19937", np.zeros(3, np.uint32), 0, 0, 0.0)), "'numpy' has words"),
        (lambda state: state.update(numpy=("x", np.zeros(624, np.uint32), 0, 0, 0.0)), "kind is 'x'"),
        (lambda state: state.update(numpy=(["x"], 0, 0, 0, 0.0)), "kind is a list of 1"),
        (lambda state: state.update(cuda=[]), "'cuda' is a list of 0, expected a list of 1"),
        (lambda state: state.update(cuda=[3]), "'cuda' holds a int"),
        (lambda state: state.update(cpu=None), "'cpu' holds a NoneType"),
        (lambda state: state.pop("numpy"), "a dict without numpy"),
        (lambda state: _engine(state, lambda *old: (5, *old[1:])), "'cpu': device is 5"),
        # Paddle's own class replaces an invalid text by 0; a test below changes the text in the file.
    ],
)
def test_an_impossible_random_state_is_refused_in_one_line(tmp_path, change, words):
    state = random_state(is_tracked=False)
    change(state)
    write_random_state(tmp_path / "rng_state.pth", state)
    with pytest.raises(CheckpointError, match=rf"rng_state\.pth is refused: .*{words}"):
        read_random_state(tmp_path / "rng_state.pth", 0, 1, is_tracked=False)


@pytest.mark.parametrize(("old", "new"), [(b"K\x31", b"K\x78"), (b"K\x20", b"K\x31")])
def test_a_generators_engine_must_be_its_numbers(tmp_path, old, new):
    path = tmp_path / "rng_state.pth"
    write_random_state(path, random_state(is_tracked=False))
    start, middle, end = path.read_bytes().partition(b"GeneratorState")
    path.write_bytes(start + middle + end.replace(old, new))  # a letter in a number; numbers that run together
    with pytest.raises(CheckpointError, match="holds an engine that is not 312 numbers and a position"):
        read_random_state(path, 0, 1, is_tracked=False)


def test_the_states_of_other_processes_are_refused(tmp_path):
    write_random_state(tmp_path / "x", [random_state(is_tracked=False)] * 3)
    with pytest.raises(CheckpointError, match="a list of 3, expected the states of 2 processes"):
        read_random_state(tmp_path / "x", 0, 2, is_tracked=False)


@pytest.mark.parametrize("writer", [write_plain, lambda path, values: paddle.save(values, str(path))])
def test_loss_scale_and_schedule_there_and_back(tmp_path, writer):
    writer(tmp_path / "scaler.pdparams", SCALER)
    assert read_scaler(tmp_path / "scaler.pdparams") == SCALER
    assert paddle.load(str(tmp_path / "scaler.pdparams"), return_numpy=True) == SCALER
    schedule = {"last_epoch": 7, "last_lr": 1e-5}
    writer(tmp_path / "scheduler.pdparams", schedule)
    assert read_schedule(tmp_path / "scheduler.pdparams", {"last_epoch": 0, "last_lr": 0.1}, 7) == schedule
    assert paddle.load(str(tmp_path / "scheduler.pdparams")) == schedule


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": np.array([np.nan], np.float32)}, "scale is nan"),
        ({"scale": np.zeros(2, np.float32)}, r"scale has shape \[2\]"),
        ({"scale": 3.0}, "entry 'scale' is a float"),
        ({"incr_ratio": 0.5}, "incr_ratio is 0.5"),
        ({"incr_count": -1}, "incr_count is -1"),
        ({"use_dynamic_loss_scaling": 1}, "use_dynamic_loss_scaling is 1"),
        ({"more": 1}, "it holds .*more"),
        ({"decr_ratio": [1]}, "decr_ratio is a list"),
    ],
)
def test_an_impossible_loss_scale_is_refused_in_one_line(tmp_path, changes, words):
    paddle.save({**SCALER, **changes}, str(tmp_path / "scaler.pdparams"))
    with pytest.raises(CheckpointError, match=rf"scaler\.pdparams is refused: .*{words}"):
        read_scaler(tmp_path / "scaler.pdparams")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"last_epoch": 8, "last_lr": 0.1}, "last_epoch is 8"),
        ({"last_epoch": -1, "last_lr": 0.1}, "last_epoch is -1"),
        ({"last_epoch": True, "last_lr": 0.1}, "last_epoch is True"),
        ({"last_epoch": 7, "last_lr": float("inf")}, "last_lr is inf"),
        ({"last_epoch": 7}, "expected last_epoch, last_lr"),
    ],
)
def test_an_impossible_schedule_is_refused_in_one_line(tmp_path, values, words):
    (tmp_path / "scheduler.pdparams").write_bytes(pickle.dumps(values, 4))
    with pytest.raises(CheckpointError, match=rf"scheduler\.pdparams is refused: .*{words}"):
        read_schedule(tmp_path / "scheduler.pdparams", {"last_epoch": 0, "last_lr": 0.1}, 7)


def test_a_pickle_of_too_many_steps_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x80\x04](" + b"K\x01" * 2000 + b"e.")
    with path.open("rb") as file, pytest.raises(CheckpointError, match="more than 1000 steps"):
        PickleReader(file, {}, max_steps=1000).load()
    with path.open("rb") as file:
        assert PickleReader(file, {}).load() == [1] * 2000


def test_a_failure_in_one_process_is_raised_in_all(monkeypatch):
    monkeypatch.setattr(paddle.distributed, "all_gather_object", lambda found, own: found.extend([own, "file is cut"]))
    with pytest.raises(CheckpointError, match="file is cut"):
        fail_together(lambda: 3, 2)

    def fails():
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        fail_together(fails, 2)
    monkeypatch.setattr(paddle.distributed, "all_gather_object", lambda found, own: found.extend([own, None]))
    assert fail_together(lambda: 3, 2) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unified_checkpoint_config", "async_save"),
        ("save_sharded_model", True),
        ("load_sharded_model", True),
        ("use_async_save", True),
        ("pdc_download_ckpt", True),
        ("enable_auto_parallel", True),
        ("use_expert_parallel", True),
        ("ckpt_quant_stage", "O1"),
        ("sharding_parallel_config", "enable_stage1_tensor_fusion"),
        ("sharding_parallel_config", "split_param enable_stage1_allgather_overlap"),
    ],
)
def test_a_setting_that_leads_to_other_checkpoints_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} (is|has) .*leave it out"):
        parse({"output_dir": str(tmp_path), "device": "cpu", key: value})


def test_flattened_gradients_of_an_npu_are_refused():
    with pytest.raises(ValueError, match="flatten_param_grads is True"):
        check_supported({"flatten_param_grads": True})
