"""Settings that choose trainable parameters and their rates: LLaVA's, LLaVA-NeXT's, LoRA's variants, NEFTune."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest
import tiny_folder
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.models.llava import neftune_noise
from paddlemix.train.freeze import freeze

TOWER, PROJECTOR, LANGUAGE = ("vision_tower.",), ("projector.", "image_newline"), ("language_model.",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("images"), kinds="1", is_answer_fixed=True)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tune_mm_mlp_adapter": True}, PROJECTOR),
        ({"mm_tunable_parts": "mm_mlp_adapter"}, PROJECTOR),
        ({"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model"}, TOWER + PROJECTOR + LANGUAGE),
        ({"mm_tunable_parts": ["mm_language_model"]}, LANGUAGE),
        ({"mm_tunable_parts": ["mm_mlp_adapter", "mm_vision_tower"]}, TOWER + PROJECTOR),
        ({"mm_tunable_parts": ["mm_language_model"], "freeze_include": ["*lm_head*", "*layers.0.*"]}, LANGUAGE),
    ],
)
def test_named_parts_train_and_no_others(tmp_path, data, changes, parts):
    model = build(settings(tmp_path, data, "anyres", **changes)).llava
    trained = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    unused = ("vision_tower.layers.2.", "vision_tower.post_norm.")  # after the selected features
    expected = {name for name, _ in model.named_parameters() if name.startswith(parts) and not name.startswith(unused)}
    if "freeze_include" in changes:
        expected = {name for name in expected if "lm_head" not in name and "layers.0." not in name}
    assert trained == expected


def test_unknown_part_is_refused_with_the_known_ones():
    model, _ = tiny_folder.load("pad")
    with pytest.raises(ValueError, match=r"'mm_llm'\]: expected some of mm_vision_tower, mm_mlp_adapter, mm_lang"):
        freeze(model, parts=["mm_llm"])


def test_lora_on_tower_and_projector_trains_their_adapters_only(tmp_path, data):
    patterns = [r"vision_tower\.layers\.\d+\.self_attn\.[qv]_proj", r"projector\.\d+"]
    trainer = train(settings(tmp_path, data, "anyres", **{**LORA, "lora_target_modules": patterns}, max_steps=2))
    before = weights(tiny_folder.load("anyres")[0])
    after = weights(trainer.llava)
    changed = differing(before, {name: after[name] for name in before})
    assert changed == {"image_newline"}  # which no adapter can have
    moved = {name for name, value in after.items() if name.endswith("lora_B") and np.abs(value).max() > 0}
    assert {name.split(".")[0] for name in moved} == {"vision_tower", "projector"}


def test_rslora_scales_by_the_root_of_the_rank_and_is_saved_in_the_config(tmp_path, data):
    trainer = train(settings(tmp_path, data, **{**LORA, "lora_rank": 16}, rslora=True, max_steps=1))
    layer = trainer.llava.language_model.layers[0].self_attn.q_proj
    assert layer.scaling == pytest.approx(LORA["lora_alpha"] / math.sqrt(16))
    assert json.loads((tmp_path / "out" / "lora_config.json").read_text())["rslora"] is True


def test_lora_plus_moves_b_matrices_faster_by_its_scale(tmp_path, data):
    def steps(name, scale):
        options = {**LORA, "lora_plus_scale": scale, "max_steps": 1, "max_grad_norm": 0.0, "weight_decay": 0.0}
        values = weights(train(settings(tmp_path / name, data, **options)).llava)
        return {key: value for key, value in values.items() if key.endswith("lora_B")}

    plain, plus = steps("plain", 1.0), steps("plus", 4.0)  # B starts at 0
    ratios = [plus[key][plain[key] != 0] / plain[key][plain[key] != 0] for key in plain]
    assert np.median(np.concatenate(ratios)) == pytest.approx(4.0, rel=1e-3)


def test_neftune_noise_has_the_width_of_the_paper_on_text_only():
    ids = np.array([[5, 6, IMAGE_TOKEN_ID, 7, 5, 6, 0, 0]])
    segments = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    paddle.seed(0)
    noise = neftune_noise(ids, segments, paddle.zeros([1, 8, 4000]), alpha=5.0).numpy()[0]
    limits = np.array([4, 4, 0, 4, 2, 2, 0, 0], dtype=float)  # tokens of the sample
    limits = np.where(limits > 0, 5.0 / np.sqrt(np.maximum(limits, 1) * 4000), 0.0)
    widest = np.abs(noise).max(axis=1)
    assert (widest <= limits + 1e-7).all() and (widest >= 0.99 * limits).all()
    assert np.abs(noise.mean(axis=1)).max() < 0.05 * limits.max()


def test_neftune_changes_training_and_not_evaluation(tmp_path, data):
    trainer = build(settings(tmp_path, data, neftune=True, neftune_noise_alpha=5))
    model = trainer.llava
    batch = trainer.data_collator([trainer.train_dataset[0]])["batch"]
    model.train()
    assert abs(model.loss(batch).item() - model.loss(batch).item()) > 1e-6
    model.eval()
    assert model.loss(batch).item() == model.loss(batch).item()
