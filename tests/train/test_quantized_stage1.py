"""Stage 1 over a frozen decoder in int8 or NF4: the projector trains, and the result has the unrounded decoder."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_folder
from tiny_training import PRETRAIN_FREEZE, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration
from paddlemix.models.quantized import quantized_layers

KINDS = {"int8": "load_in_8bit", "nf4": "load_in_4bit"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def values_of(folder, data, key: str, **changes) -> dict:
    changes = {"learning_rate": 5e-3, "save_strategy": "steps", "save_steps": 2, **PRETRAIN_FREEZE, **changes}
    return settings(folder, data, **{key: True}, **changes)


@pytest.fixture(scope="module", params=KINDS)
def run(tmp_path_factory, data, request):
    """A finished run of four steps: (its kind, trainer, the folder around its output)."""
    folder = tmp_path_factory.mktemp("run")
    return request.param, train(values_of(folder, data, KINDS[request.param])), folder


def test_decoder_is_quantized_and_only_the_projector_trains(run):
    kind, trainer, _ = run
    assert {layer.kind for layer in quantized_layers(trainer.llava).values()} == {kind}
    trained = {name for name, one in trainer.llava.named_parameters() if not one.stop_gradient}
    assert trained and all(name.startswith("projector.") for name in trained)


@pytest.mark.parametrize("place", ["", "checkpoint-2"])
def test_what_is_saved_has_the_decoder_of_the_start_bit_for_bit(run, place):
    _, trainer, folder = run
    before = weights(tiny_folder.load("pad")[0])
    after = weights(LlavaForConditionalGeneration.from_pretrained(folder / "out" / place))
    assert differing(before, after) == {name for name in before if name.startswith("projector.")}
    if not place:
        for name, tensor in weights(trainer.llava).items():
            np.testing.assert_array_equal(after[name], tensor)


def test_gradients_come_through_the_rounded_decoder(run, tmp_path, data):
    kind, trainer, _ = run
    plain = train(settings(tmp_path, data, learning_rate=5e-3, **PRETRAIN_FREEZE))
    ours, others = (np.array(one.recorder.losses) for one in (trainer, plain))
    assert not np.array_equal(ours, others)
    np.testing.assert_allclose(ours, others, rtol=0.02 if kind == "int8" else 0.2)


def test_resumed_run_equals_the_uninterrupted_one(run, tmp_path, data):
    kind, trainer, _ = run
    train(values_of(tmp_path, data, KINDS[kind], max_steps=2))
    again = train(values_of(tmp_path, data, KINDS[kind], overwrite_output_dir=False))
    assert not differing(weights(trainer.llava), weights(again.llava))


def test_settings_that_train_a_part_of_the_decoder_are_refused_before_it_is_loaded(tmp_path, data, monkeypatch):
    monkeypatch.setattr("paddlemix.train.run.load_model", lambda *args, **options: pytest.fail("was loaded"))
    parts = {"freeze_include": ["*llama*", "*lm_head*"], "freeze_exclude": ["*mm_projector*", "*layers.1.mlp*"]}
    with pytest.raises(ValueError, match=r"train 3 of its tensors: set lora: true .* tune_mm_mlp_adapter: true"):
        build(values_of(tmp_path, data, "load_in_4bit", **parts))
