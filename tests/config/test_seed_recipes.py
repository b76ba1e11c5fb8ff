"""The recipes of the systems that seeds.md names: published hyperparameters, memory, and two steps on tiny models."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import tiny_folder
from documentation import SEEDS
from tiny_families import FIRST, tiny_model

from paddlemix.doctor.check import OK, WARNING
from paddlemix.doctor.run_checks import diagnose

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "paddlemix/config/llava"
PRETRAIN, FULL, QLORA = "recipe_pretrain.json", "recipe_full.json", "recipe_qlora.json"
SHAREGPT4V, INTERNVL = "recipe_pretrain_sharegpt4v.json", "recipe_full_internvl.json"
# xtuner v0.1.23 configs/llava, LLaVA's README of June 2023, LLaVA 1.5's scripts for Cerebras: samples per step,
# learning rate, tokens of a row with those of its image, epochs, samples on a card at a time.
ALIGN, TUNE, ADAPT = (256, 1e-3, 2048, 1, 32), (128, 2e-5, 2048, 1, 8), (128, 2e-4, 2048, 1, 16)
LONG_ALIGN, LONG_TUNE = (256, 1e-3, 4096, 1, 16), (128, 2e-5, 4096, 2, 8)
FIRST_ALIGN, FIRST_TUNE = (128, 2e-3, 2048, 1, 16), (128, 2e-5, 2048, 1, 16)
PUBLISHED = {
    **{f"{name}/{PRETRAIN}": ALIGN for name in ("internlm", "internlm2", "phi3", "llama3", "cerebras")},
    **{f"{name}/{QLORA}": ADAPT for name in ("internlm", "internlm2")},
    **{f"{name}/{FULL}": TUNE for name in ("internlm2", "phi3", "llama3")},
    **{f"{name}/{SHAREGPT4V}": LONG_ALIGN for name in ("phi3", "llama3")},
    **{f"{name}/{INTERNVL}": LONG_TUNE for name in ("phi3", "llama3")},
    "llama3/recipe_pretrain_one_card.json": (256, 1e-3, 2048, 1, 1),
    "llama3/recipe_qlora_one_card.json": (128, 2e-4, 2048, 1, 1),
    **{f"{name}/{PRETRAIN}": FIRST_ALIGN for name in ("v1", "lightning", "mpt", "scienceqa")},
    **{f"{name}/{FULL}": FIRST_TUNE for name in ("lightning", "mpt")},
    f"v1/{FULL}": (32, 2e-5, 2048, 3, 4),
    f"scienceqa/{FULL}": (32, 2e-5, 2048, 12, 4),
    f"cerebras/{FULL}": (128, 2e-5, 2048, 1, 16),
}
COMMON = {"weight_decay": 0.0, "warmup_ratio": 0.03, "lr_scheduler_type": "cosine", "recompute": True}
FROM_XTUNER = ("internlm", "internlm2", "phi3", "llama3")
TEMPLATES = {"v1": "llava_v0", "scienceqa": "llava_v0", "lightning": "v1", "mpt": "mpt"}
# What a tiny run changes in a recipe: sizes, and what belongs to eight cards.
TINY = {"max_length": 256, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "device": "cpu"}


def read(name: str) -> dict:
    return json.loads((CONFIGS / name).read_text(encoding="utf-8"))


def test_all_recipes_are_listed():
    names = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/recipe_*.json")}
    assert {name for name in names if not name.startswith("v1_")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_has_the_hyperparameters_of_its_seed(name):
    values, folder = read(name), name.partition("/")[0]
    num_cards = 1 if "one_card" in name else 8
    batch = values["per_device_train_batch_size"]
    samples = num_cards * batch * values["gradient_accumulation_steps"]
    found = samples, values["learning_rate"], values["max_length"], values["num_train_epochs"], batch
    assert found == PUBLISHED[name]
    assert {key: values[key] for key in COMMON} == COMMON
    is_first_stage, is_from_xtuner = "pretrain" in name, folder in FROM_XTUNER
    assert values.get("group_by_modality_length", False) == (is_from_xtuner and not is_first_stage)
    assert values.get("fp16", False) == is_from_xtuner and values.get("bf16", False) != is_from_xtuner
    assert values.get("seed") == (1024 if folder == "phi3" else None)
    if is_from_xtuner:
        assert values["max_grad_norm"] == 1 and values.get("sharding") == ("stage2" if num_cards == 8 else None)
    template = "plain" if is_first_stage else "vicuna_v1" if folder == "cerebras" else None
    assert values.get("conv_mode") == TEMPLATES.get(folder, template)
    if folder in FIRST:
        assert (values["save_steps"], values["save_total_limit"]) == ((2400, 1) if is_first_stage else (5000, 3))


@pytest.mark.parametrize("name", sorted(name for name in PUBLISHED if "qlora" in name))
def test_adapters_have_the_rank_of_the_seed_and_the_towers_are_adapted_where_it_does(name):
    values, is_small = read(name), "one_card" in name
    assert values["load_in_4bit"] and values["lora"] and values["lora_dropout"] == 0.05
    assert (values["lora_rank"], values["lora_alpha"]) == ((64, 16) if is_small else (512, 256))
    assert (values.get("vision_lora_rank"), values.get("vision_lora_alpha")) == ((None, None) if is_small else (64, 16))
    patterns = values.get("lora_target_modules", [])
    assert any(pattern.startswith("vision_tower") for pattern in patterns) != is_small


def test_second_stage_starts_from_what_the_first_one_writes():
    for name in PUBLISHED:
        folder, _, file = name.partition("/")
        if "pretrain" in file or folder == "scienceqa":  # ScienceQA's takes only the projector, by compose
            continue
        start = SHAREGPT4V if file == INTERNVL else PRETRAIN
        assert read(name)["model_name_or_path"] == read(f"{folder}/{start}")["output_dir"], name


@pytest.fixture(scope="module")
def memory():
    spec = importlib.util.spec_from_file_location("recipe_memory", ROOT / "benchmarks/recipe_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", SEEDS, ids=("english", "chinese"))
def test_table_of_memory_equals_the_computed_one(page, memory):
    text = page.read_text(encoding="utf-8")
    (written,) = re.findall(r"<!-- benchmarks/recipe_memory.py seeds -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    if not hasattr(memory, "computed"):
        memory.computed = memory.table(memory.SEED_STARTS)
    heading, _, rest = written.partition("\n")  # of the Chinese page in its language
    expected, _, computed = memory.computed.partition("\n")
    assert rest == computed and heading.count("|") == expected.count("|")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    tiny_folder.write_captions(folder)
    return tiny_folder.write_rows(folder, kinds="1")


@pytest.mark.parametrize("name", PUBLISHED)
def test_two_steps_of_the_recipe_train_on_a_tiny_model_of_its_family(name, rows, tmp_path):
    folder, _, file = name.partition("/")
    data = rows.with_name("pretrain.json") if "pretrain" in file else rows
    changes = {**TINY, "model_name_or_path": str(tiny_model(folder)), "dataset": str(data), "dataloader_num_workers": 0}
    changes |= {"lora_rank": 4}
    values = {**read(name), **changes, "output_dir": str(tmp_path / "out"), "report_to": "none"}
    diagnosis = diagnose(values, template="plain" if "pretrain" in file else None, config_folder=None)
    checks = {check.name: check for check in diagnosis.checks}
    assert {one.name: one.facts for one in diagnosis.checks if one.status not in (OK, WARNING)} == {}
    assert len(checks["trial"].values["losses"]) == 2 and not (tmp_path / "out").exists()
    assert not any("no gradient reaches" in fact or "matches" in fact for fact in checks["trial"].facts)
