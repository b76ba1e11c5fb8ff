"""Names of xtuner's configs are answered with the recipe that has their values."""

from __future__ import annotations

import re

import pytest
from documentation import ROOT

from paddlemix.train.config_file import read_values

CONFIGS = {
    "llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain": "internlm/recipe_pretrain",
    "llava_internlm_chat_7b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune": "internlm/recipe_qlora",
    "llava_phi3_mini_4k_instruct_clip_vit_large_p14_336_e1_gpu8_sharegpt4v_pretrain": "phi3/recipe_pretrain_sharegpt4v",
    "llava_phi3_mini_4k_instruct_full_clip_vit_large_p14_336_full_e2_gpu8_internvl_finetune": (
        "phi3/recipe_full_internvl"
    ),
    "llava_vicuna_7b_v15_clip_vit_large_p14_336_e1_gpu8_pretrain": "v1_5/recipe_pretrain",
    "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune": "v1_5/recipe_qlora",
    "./llava_internlm_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain_copy.py": "internlm/recipe_pretrain",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_of_xtuner_is_answered_with_its_recipe(name):
    path = f"paddlemix/config/llava/{CONFIGS[name]}.json"
    assert (ROOT / path).is_file()
    with pytest.raises(ValueError, match=f"does not exist .*; it is a config of xtuner: use {re.escape(path)}$"):
        read_values([name, "--deepspeed", "deepspeed_zero2"])


def test_config_of_xtuner_without_a_recipe_is_answered_with_those_of_its_model():
    with pytest.raises(ValueError, match=r"xtuner: use one of paddlemix/config/llava/internlm/recipe_\*\.json$"):
        read_values(["llava_internlm_chat_7b_full_clip_vit_large_p14_336_e1_gpu8_finetune"])


def test_other_missing_file_is_only_named():
    with pytest.raises(ValueError, match=r"none\.json does not exist \(looked for .*none\.json\)$"):
        read_values(["none.json"])
