"""The shipped JSON files are those of PaddleMIX, with its keys and values, and the recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "paddlemix" / "config" / "llava"

# PaddleMIX's files (paddlemix/config/llava at 68630549 for pretrain, 1c6c249b and f4da28b7 for the others).
TRAIN_AND_EVAL = (("train", "train.json"), ("eval", "val.json"))
COMMON = {
    "mixtoken": False,
    "overwrite_output_dir": True,
    "recompute": True,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 1,
    "eval_accumulation_steps": 16,
    "num_train_epochs": 1,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "save_steps": 100,
    "save_strategy": "epoch",
    "max_length": 2048,
    "fp16_opt_level": "O1",
    "do_train": True,
    "do_eval": False,
    "disable_tqdm": True,
    "save_total_limit": 1,
}
PRETRAIN = {
    **COMMON,
    "model_name_or_path": "paddlemix/llava/vicuna-13b-v1.5",
    "freeze_include": ["*llama*", "*lm_head*"],
    "freeze_exclude": ["*llama.mm_projector*"],
    "dataset": {split: [{"name": "chatml_dataset", "data_files": file}] for split, file in TRAIN_AND_EVAL},
    "output_dir": "./checkpoints/llava_pretrain_ckpts",
    "group_by_modality_length": False,
    "learning_rate": 1e-3,
    "evaluation_strategy": "no",
    "fp16": False,
    "eval_steps": 120,
}
TUNE = {
    **COMMON,
    "dataset": {
        split: [{"name": "chatml_dataset", "data_files": file, "chat_template": "chat_template.json"}]
        for split, file in TRAIN_AND_EVAL
    },
    "output_dir": "./checkpoints/llava_sft_ckpts",
    "evaluation_strategy": "epoch",
}
SFT = {**TUNE, "group_by_modality_length": False, "learning_rate": 2e-5, "fp16": False}
LORA = {
    **TUNE,
    "learning_rate": 2e-4,
    "mm_projector_lr": 2e-5,
    "weight_decay": 0.0,
    "bf16": False,
    "load_best_model_at_end": False,
    "eval_with_do_generation": False,
    "skip_memory_metrics": False,
    "benchmark": False,
    "lora": True,
    "lora_rank": 128,
    "lora_alpha": 256,
    "lora_dropout": 0.0,
    "lora_target_modules": [
        "llama.layer.*q_proj.*",
        "llama.layer.*k_proj.*",
        "llama.layer.*v_proj.*",
        "llama.layer.*gate_proj.*",
        "llama.layer.*up_proj.*",
        "llama.layer.*down_proj.*",
        "llama.layer.*o_proj.*",
    ],
}
STAGE2 = {**LORA, "sharding": "stage2", "tensor_parallel_degree": 1, "sharding_parallel_degree": 8}
MODELS = {"v1_5": "liuhaotian/llava-v1.5-7b", "v1_6": "liuhaotian/llava-v1.6-vicuna-7b"}
SHIPPED = {"pretrain.json": PRETRAIN} | {
    f"{version}/{name}_argument{suffix}.json": {**values, "model_name_or_path": model}
    for version, model in MODELS.items()
    for name, suffix, values in (("sft", "", SFT), ("lora_sft", "", LORA), ("lora_sft", "_stage2", STAGE2))
}


def test_shipped_files_are_those_of_paddlemix_and_recipes():
    names = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.json")}
    assert {name for name in names if "/recipe_" not in name} == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_file_equals_that_of_paddlemix(name):
    assert json.loads((CONFIGS / name).read_text(encoding="utf-8")) == SHIPPED[name]
