"""LoRA over every family of decoders, in the layers that its file names."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.load import load_model
from paddlemix.models.config import LlavaConfig
from paddlemix.models.language.families import FAMILIES
from paddlemix.train.arguments import ModelArguments
from paddlemix.train.lora import add_lora, save_adapter

OPTIONS = {
    "llama": {"rope_scaling": {"kind": "linear", "factor": 2.0}, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {"has_qkv_bias": True},
    "mpt": {
        "norm": "layer",
        "activation": "gelu",
        "is_gated": False,
        "positions": "alibi",
        "clip_qkv": 8.0,
        "tie_word_embeddings": True,
    },
    "gemma": {"norm_offset": 1.0, "activation": "gelu_tanh", "embedding_scale": 8.0, "tie_word_embeddings": True},
    "phi3": {
        "rope_scaling": {
            "kind": "longrope",
            "factor": 16.0,
            "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 6,
            "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0],
        },
    },
    "internlm": {"has_qkv_bias": True, "has_out_bias": True},
    "internlm2": {"rope_scaling": {"kind": "dynamic", "factor": 2.0}},
    "ernie4_5": {"rope_order": "pairs", "tie_word_embeddings": True},
}
ROWS = [[4, (60, 40), 20], [30]]


def test_every_family_is_tried():
    assert OPTIONS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", OPTIONS)
def test_loss_falls_when_the_familys_own_layers_are_adapted_and_the_adapter_merges(tmp_path, family):
    language = {**tiny_folder.LANGUAGE, "vocab_size": 99, "family": family, **OPTIONS[family]}
    values = {"language": language, "vision": tiny_folder.VISION, "image": tiny_folder.IMAGE_SPECS["pad"]}
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(values))
    model.initialize_weights(0, std=tiny_folder.STD)
    args = ModelArguments(lora=True, lora_rank=4, lora_dropout=0.0, freeze_mm_mlp_adapter=True)
    model.save_pretrained(tmp_path / "base")
    wrapped = add_lora(model, args, "float32", base=str(tmp_path / "base"))
    trained = {name: one for name, one in model.named_parameters() if not one.stop_gradient}
    num_layers = (7 if language.get("is_gated", True) else 6) * language["num_hidden_layers"]
    assert len(trained) == 2 * num_layers and all("lora_" in name for name in trained)
    batch = tiny.make_batch(np.random.default_rng(0), ROWS, model.config.image, with_labels=True)
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=list(trained.values()))
    model.train()
    losses = []
    for _ in range(6):
        loss = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    (tmp_path / "lora").mkdir()
    save_adapter(wrapped, tmp_path / "lora")
    with paddle.no_grad():
        merged = load_model(tmp_path / "lora", device="cpu")(batch).numpy()
        np.testing.assert_allclose(merged, model(batch).numpy(), atol=1e-4)
