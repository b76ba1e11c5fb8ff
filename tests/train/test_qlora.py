"""LoRA over quantized weights (QLoRA): the parameters that train, the files that are written, and merging."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_folder
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.merge import merge
from paddlemix.models.quantized import quantized_layers
from paddlemix.ops.quantize import KINDS, dequantize, quantize
from paddlemix.tensor_files.pdparams import open_pdparams

SWITCHES = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True}}
WEIGHTS = "lora_model_state.pdparams"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory, data):
    """A finished run at a high rate: (kind, trainer, its output folder)."""
    folder = tmp_path_factory.mktemp("run")
    trainer = train(values_of(folder, data, request.param, max_steps=6, save_strategy="steps", save_steps=3))
    trainer.llava.eval()
    return request.param, trainer, folder / "out"


def values_of(folder, data, kind, **changes):
    return settings(folder, data, "anyres", **{"learning_rate": 5e-3, **LORA, **SWITCHES[kind], **changes})


def batch_of(trainer):
    return trainer.data_collator([trainer.train_dataset[index] for index in (1, 3)])["batch"]


def assert_near(result, expected, tolerance=1e-5):
    assert np.abs(result - expected).max() < tolerance * max(1, np.abs(expected).max())


def test_loss_falls_while_only_adapters_and_projector_train(run):
    kind, trainer, _ = run
    losses = trainer.recorder.losses
    assert len(losses) == 6 and losses[-1] < 0.8 * losses[0]
    trained = {name for name, parameter in trainer.llava.named_parameters() if not parameter.stop_gradient}
    layers = quantized_layers(trainer.llava)
    factors = {f"{name}.lora_{side}" for name in layers for side in "AB"}
    assert len(layers) == 14 and all(layer.kind == kind for layer in layers.values())
    others = {name for name in weights(trainer.llava) if name.startswith(("projector.", "image_newline"))}
    assert trained == factors | others


def test_adapter_is_written_as_over_unquantized_weights_with_the_kind_recorded(run, tmp_path, data):
    kind, _, output = run
    plain = train(settings(tmp_path, data, "anyres", max_steps=1, **LORA))
    assert set(open_pdparams(output / WEIGHTS)) == set(open_pdparams(tmp_path / "out" / WEIGHTS))
    ours, theirs = (json.loads((folder / "lora_config.json").read_text()) for folder in (output, tmp_path / "out"))
    assert ours.pop("quantization") == kind and ours == theirs
    assert not list(output.glob("model*.safetensors"))
    assert not quantized_layers(plain.llava)


def test_merged_logits_equal_those_of_the_quantized_model_with_its_adapter(run, tmp_path):
    kind, trainer, output = run
    batch = batch_of(trainer)
    expected = trainer.llava(batch).numpy()
    merge(output, tmp_path / "merged", device="cpu")
    assert_near(LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")(batch).numpy(), expected)
    assert_near(LlavaForConditionalGeneration.from_pretrained(output)(batch).numpy(), expected)
    assert_near(LlavaForConditionalGeneration.from_pretrained(output, **SWITCHES[kind])(batch).numpy(), expected)


def test_merging_can_use_the_unrounded_base(run, tmp_path):
    kind, trainer, output = run
    merge(output, tmp_path / "merged", device="cpu", base_quantization=None)
    merged = weights(LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged"))
    default = weights(LlavaForConditionalGeneration.from_pretrained(output))
    base, tuned = weights(tiny_folder.load("anyres")[0]), weights(trainer.llava)
    for name in quantized_layers(trainer.llava):
        change = 2.0 * tuned[f"{name}.lora_A"].astype(np.float64) @ tuned[f"{name}.lora_B"]
        weight = base[f"{name}.weight"]
        np.testing.assert_allclose(merged[f"{name}.weight"], weight + change, atol=1e-6)
        rounded = dequantize(quantize(np.ascontiguousarray(weight.T), kind)).T
        np.testing.assert_allclose(default[f"{name}.weight"], rounded + change, atol=1e-6)
    same = {name for name in merged if name.removesuffix(".weight") not in quantized_layers(trainer.llava)}
    assert differing(merged, default) == set(merged) - same


def test_resumed_run_equals_the_uninterrupted_one(run, tmp_path, data):
    kind, trainer, output = run
    checkpoint = str(output / "checkpoint-3")
    resumed = train(values_of(tmp_path, data, kind, max_steps=6, resume_from_checkpoint=checkpoint))
    assert not differing(weights(trainer.llava), weights(resumed.llava))


def test_new_run_continues_from_an_adapter(run, tmp_path, data, caplog):
    kind, trainer, output = run
    resumed = build(values_of(tmp_path, data, kind, lora_path=str(output)))
    assert not differing(weights(trainer.llava), weights(resumed.llava))
    assert "continues over" not in caplog.text
    build(settings(tmp_path, data, "anyres", lora_path=str(output), **LORA))
    assert f"trained over {kind} weights and continues over unquantized ones" in caplog.text


def test_recomputing_layers_changes_no_weight(run, tmp_path, data):
    kind, trainer, _ = run
    again = train(values_of(tmp_path, data, kind, max_steps=6, recompute=True))
    for name, tensor in weights(trainer.llava).items():
        np.testing.assert_allclose(weights(again.llava)[name], tensor, atol=1e-5, err_msg=name)


def test_quantized_weights_need_lora_unless_they_are_frozen(tmp_path, data):
    with pytest.raises(
        ValueError, match=r"load_in_4bit .* cannot be trained, .* train 21 of its tensors: set lora: true"
    ):
        build(settings(tmp_path, data, load_in_4bit=True))


def test_both_switches_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match="set one of load_in_8bit and load_in_4bit"):
        build(settings(tmp_path, data, load_in_4bit=True, load_in_8bit=True, **LORA))


def test_training_over_an_adapter_folder_is_refused(run, tmp_path, data):
    kind, _, output = run
    with pytest.raises(ValueError, match="start from its base, with lora_path to continue"):
        build(values_of(tmp_path, data, kind, model_name_or_path=str(output)))


def test_unknown_kind_in_an_adapters_config_is_refused(run, tmp_path):
    _, _, output = run
    for name in (WEIGHTS, "lora_config.json", "config.json"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    values = json.loads((tmp_path / "lora_config.json").read_text())
    (tmp_path / "lora_config.json").write_text(json.dumps({**values, "quantization": "fp4"}))
    with pytest.raises(ValueError, match="has quantization 'fp4': expected int8 or nf4"):
        LlavaForConditionalGeneration.from_pretrained(tmp_path)
