"""Resuming runs no code in a checkpoint's files, and refuses in one line a state that is not the run's own."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import paddle
import pytest
import tiny_folder
from paddlenlp.trainer import Trainer
from tiny_training import LORA, differing, settings, train, weights

from paddlemix.tensor_files.pdparams import read_saved
from paddlemix.tensor_files.pickle_reader import ForbiddenPickle
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train import saving

STATE = ("optimizer.pdopt", "scheduler.pdparams", "rng_state.pth")
SAVING = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "cosine"}
EVALUATED = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
RUNS = {"full": {}, "lora": {**LORA, "lora_dropout": 0.3}, "best": EVALUATED}
ALONE = {"ignore_load_lr_and_optim": True}


class Payload:
    """Unpickles by making a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = tiny_folder.write_rows(tmp_path_factory.mktemp("data"))
    return {split: [{"data_files": str(rows)}] for split in ("train", "eval")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """Return a function from a kind to the folder of its run and its trainer."""
    made = {}

    def run(kind: str):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = folder, train(_values(folder, data, kind))
        return made[kind]

    return run


def _values(folder, data, kind: str, **changes) -> dict:
    return settings(folder, None, "anyres", **{**SAVING, **RUNS[kind], "dataset": data, **changes})


@pytest.fixture
def resume(runs, tmp_path, data):
    """Return a function that resumes a run from step 2 in another folder, after `change(checkpoint)`."""

    def resume_run(kind: str, change, is_by_path: bool = False, **changes):
        checkpoint = tmp_path / "out/checkpoint-2"
        if is_by_path:
            checkpoint = tmp_path / "elsewhere/checkpoint-2"
            changes["resume_from_checkpoint"] = str(checkpoint)
        shutil.copytree(runs(kind)[0] / "out/checkpoint-2", checkpoint)
        change(checkpoint)
        return train(_values(tmp_path, data, kind, overwrite_output_dir=False, **changes))

    return resume_run


WAYS = {
    "found": ("full", {}),
    "by path": ("full", {"is_by_path": True}),
    "weights alone": ("full", ALONE),
    "data anew": ("full", {"ignore_data_skip": True}),
    "lora": ("lora", {}),
    "lora's weights alone": ("lora", ALONE),
    "best": ("best", {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STATE)
def test_a_payload_never_runs_and_its_file_is_refused_by_name(resume, tmp_path, name, way):
    kind, options = WAYS[way]
    payload = pickle.dumps({"moment1": Payload(tmp_path / "ran")})
    with pytest.raises(ValueError, match=rf"checkpoint-2/{name} is refused: it refers to builtins.exec"):
        resume(kind, lambda checkpoint: (checkpoint / name).write_bytes(payload), **options)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["training_args.bin", "model_state.pdparams", "scaler.pdparams", "rng_state_2.pth"])
def test_files_that_paddlenlp_would_unpickle_are_not_opened(resume, runs, tmp_path, name):
    def change(checkpoint):
        (checkpoint / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
        path = checkpoint / "trainer_state.json"
        state = {**json.loads(path.read_text()), "best_metric": 0.0, "best_model_checkpoint": str(checkpoint)}
        path.write_text(json.dumps(state))

    trainer = resume("best", change)
    assert not (tmp_path / "ran").exists()
    assert not differing(runs("best")[1].recorder.saved[2], weights(trainer.llava))


def forms_of_a_call(command: bytes) -> dict[str, bytes]:
    """Return ways to write `os.system(command)` in pickles that Python's own reader follows."""
    short, function = b"\x8c" + bytes([len(command)]) + command, b"\x8c\x05posix\x8c\x06system\x93"
    long = b"X" + struct.pack("<I", len(command)) + command
    return {
        "GLOBAL, REDUCE": b"\x80\x02cposix\nsystem\n" + long + b"\x85R.",
        "STACK_GLOBAL, REDUCE": b"\x80\x04" + function + short + b"\x85R.",
        "NEWOBJ": b"\x80\x04" + function + short + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + function + short + b"\x85}\x92.",
        "INST": b"(" + long + b"iposix\nsystem\n.",
        "OBJ": b"\x80\x02(cposix\nsystem\n" + long + b"o.",
        "text": b"cposix\nsystem\n(V" + command + b"\ntR.",
        "EXT1": b"\x80\x02\x82\x01" + long + b"\x85R.",
        "PERSID": b"P" + command + b"\n.",
        "BINPERSID": b"\x80\x02" + long + b"Q.",
        "protocol 5": b"\x80\x05" + function + short + b"\x85R.",
        "a name of ours": b"\x80\x04\x8c\x05numpy\x8c\x04save\x93.",
    }


@pytest.mark.parametrize("form", forms_of_a_call(b""))
def test_no_form_of_a_call_is_followed(tmp_path, form):
    path = tmp_path / "state"
    path.write_bytes(forms_of_a_call(f"touch {tmp_path}/ran".encode())[form])
    if form in ("GLOBAL, REDUCE", "STACK_GLOBAL, REDUCE", "INST", "OBJ", "text", "protocol 5"):
        with path.open("rb") as file:
            pickle.load(file)  # the form is one: it runs
        (tmp_path / "ran").unlink()
    with pytest.raises(ForbiddenPickle):
        read_saved(path)
    assert os.listdir(tmp_path) == ["state"]


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "{}": lambda content: pickle.dumps({}, 4),
    "[]": lambda content: pickle.dumps([], 4),
    "a number": lambda content: pickle.dumps(3, 4),
    "zeros": lambda content: bytes(len(content)),
    "nested": lambda content: b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "shared": lambda content: b"\x80\x04K\x01" + b"2\x86" * 20_000 + b".",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", STATE)
def test_a_damaged_file_is_one_line_and_the_weights_alone_load(resume, name, damage):
    def change(checkpoint):
        path = checkpoint / name
        path.write_bytes(DAMAGE[damage](path.read_bytes()))

    with pytest.raises(
        CheckpointError, match=rf"checkpoint-2/{name} is refused: .*set ignore_load_lr_and_optim"
    ) as seen:
        resume("full", change)
    assert len(str(seen.value)) < 1000 and "\n" not in str(seen.value)


def test_the_weights_alone_load_from_a_checkpoint_without_its_state(resume):
    def change(checkpoint):
        (checkpoint / "optimizer.pdopt").write_bytes(b"")
        for name in ("scheduler.pdparams", "rng_state.pth", "trainer_state.json"):
            (checkpoint / name).unlink()

    assert len(resume("full", change, is_by_path=True, **ALONE).recorder.losses) == 3


@pytest.mark.parametrize("name", ["optimizer.pdopt", "scheduler.pdparams", "trainer_state.json"])
def test_a_missing_file_is_named(resume, name):
    with pytest.raises(CheckpointError, match=rf"checkpoint-2/{name} is missing.*ignore_load_lr_and_optim"):
        resume("full", lambda checkpoint: (checkpoint / name).unlink(), is_by_path=True)


def test_missing_random_state_is_reported(resume, caplog):
    trainer = resume("full", lambda checkpoint: (checkpoint / "rng_state.pth").unlink())
    assert "rng_state.pth is missing: the run continues with other random numbers" in caplog.text
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "trainer_state.json"),
        (lambda text: json.dumps({**json.loads(text), "global_step": -5}), "global_step is -5"),
        (lambda text: json.dumps({**json.loads(text), "global_step": 0}), "global_step is 0"),
        (lambda text: "{}", "global_step is None"),
        (lambda text: json.dumps({**json.loads(text), "global_step": 1}), "is of step 1, its folder is named after"),
    ],
)
def test_a_trainer_state_that_is_not_this_checkpoints_is_one_line(resume, change, words):
    def changed(checkpoint):
        path = checkpoint / "trainer_state.json"
        path.write_text(change(path.read_text()))

    with pytest.raises(CheckpointError, match=words):
        resume("full", changed)


def _optimizer(change):
    """Return a change of a checkpoint: `change` gets its optimizer's state as paddle loads it."""

    def changed(checkpoint):
        path = str(checkpoint / "optimizer.pdopt")
        state = paddle.load(path)
        change(state)
        paddle.save(state, path)

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("projector.0.bias_moment2_0"), "1 are missing: projector.0.bias_moment2_0"),
        (lambda state: state.update(linear_0_moment1_0=paddle.ones([2])), "1 are unrecognized: linear_0_moment1_0"),
        (
            lambda state: state.update({"projector.0.bias_moment1_0": paddle.ones([47])}),
            r"moment1 of projector.0.bias has dtype float32 and shape \[47\], expected float32 and \[48\]",
        ),
        (
            lambda state: state.update({"projector.0.bias_moment1_0": paddle.ones([48], "int32")}),
            "moment1 of projector.0.bias has dtype int32",
        ),
        (
            lambda state: state.update({"projector.0.bias_moment1_0": paddle.log(paddle.full([48], -1.0))}),
            "projector.0.bias_moment1_0 holds numbers",
        ),
        (lambda state: state["projector.0.bias_moment2_0"].fill_(-1e-3), "projector.0.bias_moment2_0 holds numbers"),
        (lambda state: state["projector.0.bias_beta1_pow_acc_0"].fill_(2.0), "beta1_pow_acc_0 holds numbers"),
        (
            lambda state: state.update(master_weights={"projector.0.weight": paddle.ones([48])}),
            r"master_weights\['projector.0.weight'\] has dtype float32 and shape \[48\]",
        ),
        (
            lambda state: state.update(master_weights={"x": paddle.ones([48])}),
            "master_weights of tensors that do not train",
        ),
        (lambda state: state.update(master_weights=[]), "its master_weights is a list"),
        (lambda state: state["LR_Scheduler"].update(last_epoch=1), "of another step than scheduler.pdparams"),
        (lambda state: state["LR_Scheduler"].update(last_epoch=[2] * 100), "last_epoch is a list"),
    ],
)
def test_an_optimizer_state_that_does_not_fit_is_one_line(resume, change, words):
    with pytest.raises(CheckpointError, match=rf"optimizer\.pdopt.*{words}"):
        resume("full", _optimizer(change))


def test_the_state_of_another_kind_of_run_is_one_line(resume, runs):
    def change(checkpoint):
        shutil.copy(runs("lora")[0] / "out/checkpoint-2/optimizer.pdopt", checkpoint)

    with pytest.raises(CheckpointError, match=r"optimizer\.pdopt is refused: .*lora_A_beta1_pow_acc_0"):
        resume("full", change)


def test_the_state_of_another_optimizer_is_one_line(resume):
    with pytest.raises(CheckpointError, match=r"moment2 of .* and shape \[48\], expected float32 and \[1\]"):
        resume("full", lambda checkpoint: None, optim="adamw_mini")


def test_a_best_checkpoint_that_is_gone_is_reported_before_training(resume):
    def change(checkpoint):
        path = checkpoint / "trainer_state.json"
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "best_model_checkpoint": "/nowhere/checkpoint-7"}))

    with pytest.raises(CheckpointError, match="checkpoint-7, the best checkpoint of this run so far, is gone"):
        resume("best", change)


@pytest.mark.parametrize("is_checkpoint", [False, True])
def test_a_best_checkpoint_of_something_else_is_refused_before_training(resume, runs, tmp_path, data, is_checkpoint):
    other = tmp_path / "other/checkpoint-2"
    if is_checkpoint:
        shutil.copytree(runs("lora")[0] / "out/checkpoint-2", other)
    else:
        shutil.copytree(tiny_folder.folder("anyres"), other)

    def change(checkpoint):
        path = checkpoint / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "best_model_checkpoint": str(other)}))

    words = (
        "is of a run with other settings: lora_rank" if is_checkpoint else "names as the best checkpoint, is not one"
    )
    with pytest.raises(ValueError, match=words):
        resume("best", change)


def _save_as_paddlenlp(trainer, folder) -> None:
    """Write a run's state with paddlenlp's own code, which writes it only into output_dir."""
    output_dir, save_model = trainer.args.output_dir, trainer.save_model
    trainer.args.output_dir, trainer.save_model = (
        str(folder / "theirs"),
        lambda made, *options: Path(made).mkdir(parents=True),
    )
    try:
        Trainer._save_checkpoint(trainer, trainer.model)
    finally:
        trainer.args.output_dir, trainer.save_model = output_dir, save_model
    shutil.copytree(folder / f"theirs/checkpoint-{trainer.state.global_step}", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "theirs")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_checkpoint_of_paddlenlps_own_writer_resumes_bit_by_bit(tmp_path, data, runs, monkeypatch, kind):
    whole = runs(kind)[1]
    with monkeypatch.context() as patched:
        patched.setattr(saving, "save_state", _save_as_paddlenlp)
        train(_values(tmp_path / "theirs", data, kind))
    shutil.copytree(tmp_path / "theirs/out/checkpoint-2", tmp_path / "out/checkpoint-2")
    assert "StructuredToParameterName@@" in read_saved(tmp_path / "out/checkpoint-2/optimizer.pdopt")
    rest = train(_values(tmp_path, data, kind, overwrite_output_dir=False))
    assert rest.recorder.losses == whole.recorder.losses[2:]
    assert not differing(weights(whole.llava), weights(rest.llava))
