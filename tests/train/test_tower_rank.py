"""Adapters of the vision tower with a rank and an alpha of their own, as xtuner trains InternLM."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_folder
from tiny_training import LORA, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.merge import merge
from paddlemix.tensor_files.pdparams import open_pdparams

TARGETS = [r"language_model\.layers\..*_proj", r"vision_tower\.layers\.0\.self_attn\..*_proj"]
BOTH = {**LORA, "lora_target_modules": TARGETS, "vision_lora_rank": 2, "vision_lora_alpha": 1}
STEM = "vision_tower.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A finished run: (trainer, the folder of its run, its output folder)."""
    folder = tmp_path_factory.mktemp("run")
    trainer = train(settings(folder, data, learning_rate=5e-3, save_strategy="steps", save_steps=2, **BOTH))
    trainer.llava.eval()
    return trainer, folder, folder / "out"


def test_tower_has_its_rank_and_the_decoder_the_other(run):
    trainer, _, output = run
    found = {name: one.shape for name, one in trainer.llava.named_parameters() if name.endswith(".lora_A")}
    ranks = {name.partition(".")[0]: set() for name in found}
    for name, shape in found.items():
        ranks[name.partition(".")[0]].add(shape[1])
    assert ranks == {"language_model": {4}, "vision_tower": {2}}
    values = json.loads((output / "lora_config.json").read_text())
    assert (values["r"], values["vision_lora_rank"], values["vision_lora_alpha"]) == (4, 2, 1)
    stored = open_pdparams(output / "lora_model_state.pdparams")
    assert {shape[1] for name, one in stored.items() if name.endswith("lora_A") for shape in [one.shape]} == {2, 4}


def test_merged_weights_have_the_scale_of_their_part(run, tmp_path):
    trainer, _, output = run
    tuned, base = weights(trainer.llava), weights(tiny_folder.load("pad")[0])
    merge(output, tmp_path / "merged")
    for merged in (
        weights(LlavaForConditionalGeneration.from_pretrained(one)) for one in (output, tmp_path / "merged")
    ):
        for stem, scale in ((STEM, 0.5), ("language_model.layers.1.mlp.up_proj", 2.0)):
            change = scale * tuned[f"{stem}.lora_A"].astype(np.float64) @ tuned[f"{stem}.lora_B"]
            assert np.abs(change).max() > 1e-4
            np.testing.assert_allclose(merged[f"{stem}.weight"], base[f"{stem}.weight"] + change, atol=1e-6)


def test_merged_logits_equal_those_with_the_adapters(run):
    trainer, _, output = run
    batch = trainer.data_collator([trainer.train_dataset[index] for index in (1, 3)])["batch"]
    tuned = trainer.llava(batch).numpy()
    merged = LlavaForConditionalGeneration.from_pretrained(output)(batch).numpy()
    assert np.abs(merged - tuned).max() < 1e-5 * max(1, np.abs(tuned).max())


def test_run_continues_from_the_adapter_and_refuses_another_scale(run, tmp_path, data):
    _, _, output = run
    trainer = train(settings(tmp_path, data, max_steps=1, learning_rate=0.0, lora_path=str(output), **BOTH))
    before, after = weights(run[0].llava), weights(trainer.llava)
    assert {name for name in before if "lora_" in name} and not differing(before, after)
    with pytest.raises(ValueError, match=r"scaled by 0.5 .* would be scaled by 1, .*vision_lora_alpha"):
        train(settings(tmp_path / "other", data, lora_path=str(output), **{**BOTH, "vision_lora_alpha": 2}))


def test_resuming_with_another_rank_of_the_tower_is_refused(run, data):
    _, folder, _ = run
    with pytest.raises(ValueError, match="vision_lora_rank was 2, and is 4"):
        changes = {"learning_rate": 5e-3, "max_steps": 6, "overwrite_output_dir": False, "vision_lora_rank": 4}
        train(settings(folder, data, **{**BOTH, **changes}))


def test_inspect_names_both_scales(run):
    trained = inspect(run[2]).trained
    assert (trained["rank"], trained["scaling"]) == (4, 2.0)
    assert (trained["vision_tower_rank"], trained["vision_tower_scaling"]) == (2, 0.5)
