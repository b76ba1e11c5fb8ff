"""Chat warns of parts with random values until they are trained."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_folder
from tiny_training import LORA, PRETRAIN_FREEZE, settings, train

from paddlemix import cli
from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.save import save_model
from paddlemix.checkpoints.source import read_config
from paddlemix.models.config import LlavaConfig

BOTH = ("projector", "image_newline")


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A folder with AnyRes images, whose projector and newline are untrained."""
    folder = tmp_path_factory.mktemp("composed") / "model"
    source = tiny_folder.folder("pad")
    compose(source, source, folder, Choices(mode="anyres"))
    return folder


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return tiny_folder.write_captions(tmp_path_factory.mktemp("captions"), num_rows=2)


def result_of(tmp_path, composed, captions, **changes):
    values = {"model_name_or_path": str(composed), "max_steps": 1, "per_device_train_batch_size": 1, **changes}
    train(settings(tmp_path, captions, "anyres", **values))
    return read_config(tmp_path / "out").untrained


def test_stage_1_trains_the_projector_and_leaves_the_newline(tmp_path, composed, captions):
    assert read_config(composed).untrained == BOTH
    assert result_of(tmp_path, composed, captions, **PRETRAIN_FREEZE) == ("image_newline",)


def test_training_everything_or_lora_trains_both(tmp_path, composed, captions):
    assert result_of(tmp_path / "all", composed, captions) == ()
    assert result_of(tmp_path / "lora", composed, captions, **LORA) == ()
    assert load_model(tmp_path / "lora" / "out", device="cpu").config.untrained == ()


def test_training_something_else_trains_neither(tmp_path, composed, captions):
    freeze = {"freeze_include": ["*mm_projector*", "*image_newline*"]}
    assert result_of(tmp_path, composed, captions, **freeze) == BOTH


def test_saving_without_training_changes_nothing(tmp_path, composed):
    save_model(load_model(composed, device="cpu"), tmp_path)
    assert read_config(tmp_path).untrained == BOTH


def test_chat_warns_once(composed, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})
    trained = shutil.copytree(composed, tmp_path / "trained")
    values = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps({**values, "untrained": []}))
    for folder, count in ((composed, 1), (trained, 0)):
        monkeypatch.setattr("builtins.input", lambda _: "")
        assert cli.main(["chat", "--model-path", str(folder), "--device", "cpu"]) == 0
        assert caplog.text.count("the projector and the image_newline of this model are untrained") == count
        caplog.clear()


def test_config_knows_which_parts_can_be_untrained():
    assert LlavaConfig(untrained=["projector"]).untrained == ("projector",)
    assert LlavaConfig.from_dict(LlavaConfig(untrained=BOTH).to_dict()).untrained == BOTH
    with pytest.raises(ValueError, match=r"untrained is .*, expected some of projector, image_newline"):
        LlavaConfig(untrained=("tower",))
