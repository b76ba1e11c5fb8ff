"""The recipes: published hyperparameters, known keys, and the table of memory that the code computes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from paddlemix.train.arguments import parse

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "paddlemix/config/llava"
PAGE = ROOT / "docs/en/training.md"
NUM_CARDS = 8
# haotian-liu/LLaVA scripts/v1_5 (pretrain.sh, finetune.sh, finetune_lora.sh) and, for 1.6, Open-LLaVA-NeXT
# scripts/v1_6/train/7b: samples per step, learning rate, tokens per row. LoRA of 1.6 has the values of 1.5, and QLoRA
# those of LoRA.
PUBLISHED = {
    "v1_5/recipe_pretrain.json": (256, 1e-3, 2048),
    "v1_5/recipe_full.json": (128, 2e-5, 2048),
    "v1_5/recipe_lora.json": (128, 2e-4, 2048),
    "v1_5/recipe_qlora.json": (128, 2e-4, 2048),
    "v1_6/recipe_pretrain.json": (256, 1e-3, 4096),
    "v1_6/recipe_full.json": (128, 2e-5, 4096),
    "v1_6/recipe_lora.json": (128, 2e-4, 4096),
    "v1_6/recipe_qlora.json": (128, 2e-4, 4096),
}
COMMON = {"num_train_epochs": 1, "weight_decay": 0.0, "warmup_ratio": 0.03, "lr_scheduler_type": "cosine"}
COMMON |= {"bf16": True, "recompute": True}
LORA = {"lora_rank": 128, "lora_alpha": 256, "lora_dropout": 0.05, "mm_projector_lr": 2e-5}


def read(name: str) -> dict:
    return json.loads((CONFIGS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_has_the_published_hyperparameters(name):
    values = read(name)
    samples = NUM_CARDS * values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    assert (samples, values["learning_rate"], values["max_length"]) == PUBLISHED[name]
    assert {key: values[key] for key in COMMON} == COMMON
    assert values.get("group_by_modality_length", False) == ("pretrain" not in name)
    if "lora" in name:
        assert {key: values[key] for key in LORA} == LORA
    assert values.get("load_in_4bit", False) == ("qlora" in name)
    if name == "v1_6/recipe_full.json":
        assert values["mm_vision_tower_lr"] == 2e-6 and "mm_vision_tower" in values["mm_tunable_parts"][0]


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("v1_?/recipe_*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_training_accepts_the_recipe(path, tmp_path):
    values = json.loads(path.read_text(encoding="utf-8"))
    _, _, arguments = parse({**values, "output_dir": str(tmp_path), "device": "cpu"})
    assert arguments.do_train and not arguments.do_eval and not arguments.overwrite_output_dir
    assert path.relative_to(CONFIGS).as_posix() in PUBLISHED


def test_table_of_memory_in_the_page_equals_the_computed_one():
    spec = importlib.util.spec_from_file_location("recipe_memory", ROOT / "benchmarks/recipe_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = PAGE.read_text(encoding="utf-8")
    (written,) = re.findall(r"<!-- benchmarks/recipe_memory.py -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert written == module.table(module.README_STARTS)
