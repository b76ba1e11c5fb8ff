"""An interrupted run that resumes ends as an uninterrupted one; a failed save leaves the checkpoint before it."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
import tiny_folder
from tiny_training import LORA, PRETRAIN_FREEZE, build, differing, settings, train, weights

from paddlemix.train import run
from paddlemix.train import saving as saving_module
from paddlemix.train.resume import check_state
from paddlemix.train.run_folder import COMPLETE, last_checkpoint

NUM_STEPS = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none, one, two and three images: an epoch is four batches of two."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


RUNS = {
    "full": {"unfreeze_mm_vision_tower": True, "neftune": True},
    "lora": {**LORA, "lora_dropout": 0.3},
    "stage 1": {**PRETRAIN_FREEZE},
    "packed": {"packing": True, "max_length": 500, "per_device_train_batch_size": 1},
    "grouped": {"group_by_modality_length": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    "workers": {"dataloader_num_workers": 2},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(changes, tmp_path, data):
    saving = {"max_steps": NUM_STEPS, "lr_scheduler_type": "cosine", "save_strategy": "steps", "save_steps": 1}
    values = {**saving, **changes}
    whole = train(settings(tmp_path / "whole", data, "anyres", **values))
    for step in (1, 2, 4, 6):
        folder = tmp_path / f"rest-{step}"
        shutil.copytree(tmp_path / f"whole/out/checkpoint-{step}", folder / f"out/checkpoint-{step}")
        rest = train(settings(folder, data, "anyres", overwrite_output_dir=False, **values))
        assert rest.recorder.losses == whole.recorder.losses[step:]
        assert rest.recorder.rates == whole.recorder.rates[step:]
        assert len(rest.recorder.losses) == NUM_STEPS - step
        assert not differing(weights(whole.llava), weights(rest.llava)), step


@pytest.mark.parametrize("num_kept", [1, 2])
def test_full_disk_ends_the_run_and_leaves_the_last_whole_checkpoint(tmp_path, data, monkeypatch, num_kept):
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": num_kept}
    trainer = build(settings(tmp_path, data, **saving))
    save_whole, output = saving_module.save_model, tmp_path / "out"

    def save_half(model, path, frozen):
        save_whole(model, path, frozen=frozen)
        if trainer.state.global_step >= 4:
            (path / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving_module, "save_model", save_half)
    with pytest.raises(OSError, match=r"checkpoint-4 cannot be written: .*No space left.*checkpoint-2 is whole"):
        run.execute(trainer, trainer.args)
    assert last_checkpoint(output) == output / "checkpoint-2"
    monkeypatch.undo()
    again = train(settings(tmp_path, data, overwrite_output_dir=False, **saving))
    assert len(again.recorder.losses) == 4
    assert (output / "checkpoint-6" / COMPLETE).is_file()


def test_failed_first_save_reports_that_no_checkpoint_can_be_resumed(tmp_path, data, monkeypatch):
    trainer = build(settings(tmp_path, data, max_steps=2, save_strategy="steps", save_steps=1))

    def fail(model, path, frozen):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving_module, "save_model", fail)
    with pytest.raises(OSError, match=r"checkpoint-1 cannot be written: .*no whole checkpoint yet"):
        run.execute(trainer, trainer.args)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"global_step": -5}, "global_step is -5, expected a whole number"),
        ({"global_step": "2"}, "global_step is '2'"),
        ({"epoch": float("nan")}, "epoch is nan"),
        ({"log_history": [3]}, "log_history is"),
        ({"stateful_callbacks": {"x": 1}}, "states stateful_callbacks"),
    ],
)
def test_an_impossible_trainer_state_is_refused_in_one_line(tmp_path, changes, text):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 2, "epoch": 0.5, "log_history": [{"loss": 1.0}], "save_steps": 1}))
    check_state(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=rf"trainer_state\.json.*{text}"):
        check_state(tmp_path)
