"""Adapters of the newest peft and transformers: read as peft answers, and written so that peft answers the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import peft
import peft_folders
import pytest
import reference_models as tiny

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.peft_writer import write_adapter
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")
QV = ["q_proj", "v_proj"]
ALL = "all-linear"
THETA = {"rope_theta": 10000.0}  # the default of every family
MODELS = {
    "1.5": {"is_next": False},
    "1.6": {"is_next": True},
    "tied": {"is_next": False, "tie_word_embeddings": True},
    "qwen2": {"is_next": False, "family": "qwen2"},
    "phi3": {"is_next": False, "family": "phi3"},
    "siglip": {"is_next": False, "strategy": "full", "vision": {"kind": "siglip", "num_attention_heads": 1}},
}


@dataclass(frozen=True)
class Base:
    folder: Path
    is_next: bool
    batch: Any
    logits: np.ndarray


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Return a function that returns a base by its name, made once."""
    made: dict[str, Base] = {}

    def base(name: str) -> Base:
        if name not in made:
            folder, options = tmp_path_factory.mktemp(name), MODELS[name]
            model = tiny.hf_model(**{"vision": {"num_attention_heads": 1}, **THETA, **options})
            tiny.save_hf(model, folder, options["is_next"])
            batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 5]], read_config(folder).image)
            made[name] = Base(folder, options["is_next"], batch, tiny.hf_logits(model, batch, options["is_next"]))
        return made[name]

    return base


def our_logits(folder, base) -> np.ndarray:
    with paddle.no_grad():
        return load_model(folder, device="cpu")(base.batch).numpy()


READ = {
    "list": ("1.5", {"target_modules": QV}),
    "all-linear": ("1.6", {"target_modules": ALL, "modules_to_save": ["multi_modal_projector"]}),
    "regex": ("1.5", {"target_modules": r".*(language_model|vision_tower).*\.(o_proj|fc1)"}),
    "bias": ("siglip", {"target_modules": ALL, "bias": "all"}),
    "bias-of-layers": ("qwen2", {"target_modules": QV, "bias": "lora_only"}),
    "dora": ("1.5", {"target_modules": [*QV, "fc1", "embed_tokens"], "use_dora": True}),
    "dora-fused": ("phi3", {"target_modules": ALL, "use_dora": True}),
    "tower": ("1.5", {"target_modules": r".*language_model.*q_proj", "modules_to_save": ["vision_tower"]}),
    "tokens-of-both": ("1.5", {"target_modules": QV, "trainable_token_indices": {"embed_tokens": [5], "lm_head": [8]}}),
    "mica": ("1.5", {"target_modules": QV, "init_lora_weights": "mica"}),
    "tied-head": ("tied", {"target_modules": [*QV, "lm_head"]}),
    "tied-embeddings": ("tied", {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
    "tied-on-purpose": ("tied", {"target_modules": [*QV, "embed_tokens"], "ensure_weight_tying": True}),
    "tied-saved-on-purpose": (
        "tied",
        {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied-tokens": ("tied", {"target_modules": QV, "trainable_token_indices": [5, 7]}),
}


@pytest.mark.parametrize(("name", "settings"), READ.values(), ids=READ)
def test_adapter_of_peft_gives_the_answers_of_peft(bases, tmp_path, name, settings):
    base = bases(name)
    folder = peft_folders.train(tmp_path / "x", base.folder, base.is_next, **settings)
    expected = peft_folders.logits_of(folder, base.folder, base.batch, base.is_next)
    np.testing.assert_allclose(our_logits(folder, base), expected, atol=1e-4)
    assert np.abs(expected - base.logits).max() > 0.1


WRITTEN = ("list", "all-linear", "regex", "dora", "dora-fused", "tokens-of-both", "tied-head", "tied-embeddings")


@pytest.mark.parametrize("kind", WRITTEN)
def test_adapter_that_we_write_gives_the_same_answers(bases, tmp_path, kind):
    name, settings = READ[kind]
    base = bases(name)
    source = peft_folders.train(tmp_path / "x", base.folder, base.is_next, **settings)
    write_adapter(source, tmp_path / "y", is_verified=True)
    logits = peft_folders.logits_of(tmp_path / "y", base.folder, base.batch, base.is_next)
    np.testing.assert_allclose(logits, our_logits(source, base), atol=1e-4)


def test_adapter_loads_over_a_converted_base(bases, tmp_path):
    base = bases("1.5")
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=ALL)
    expected = peft_folders.logits_of(folder, base.folder, base.batch)
    convert(base.folder, tmp_path / "base", "paddle")
    peft_folders.change_config(folder, base_model_name_or_path=str(tmp_path / "base"))
    np.testing.assert_allclose(our_logits(folder, replace(base, folder=tmp_path / "base")), expected, atol=1e-4)


VARIANTS = {
    "kasa_config": {"kasa_config": peft.tuners.lora.config.KasaConfig()},
    "monteclora_config": {"monteclora_config": peft.tuners.lora.config.MontecloraConfig()},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"},
    "init_lora_weights": {"init_lora_weights": "olora"},
}


@pytest.mark.parametrize(("key", "settings"), VARIANTS.items(), ids=VARIANTS)
def test_variant_that_cannot_be_merged_is_named_by_its_key(bases, tmp_path, key, settings):
    folder = peft_folders.train(tmp_path / "x", bases("1.5").folder, target_modules=QV, **settings)
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {key} is "):
        load_model(folder, device="cpu")


def test_velora_changes_training_only(bases, tmp_path):
    base, config = bases("1.5"), peft.tuners.lora.config.VeloraConfig(num_groups=4)
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=QV, velora_config=config)
    expected = peft_folders.logits_of(folder, base.folder, base.batch)
    np.testing.assert_allclose(our_logits(folder, base), expected, atol=1e-4)


def test_every_key_that_peft_writes_is_known(bases, tmp_path):
    folder = peft_folders.train(tmp_path / "x", bases("1.5").folder, target_modules=QV)
    values = json.loads((folder / peft_folders.CONFIG).read_text())
    assert len(values) > 40 and values["peft_version"] == peft.__version__
    read_config(folder)
    assert our_logits(folder, bases("1.5")).shape == bases("1.5").logits.shape
