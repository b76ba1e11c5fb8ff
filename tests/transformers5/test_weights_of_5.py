"""Weights that transformers 5 saves: every decoder and tower, alone and together, is read bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import reference_models as tiny
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    LlamaForCausalLM,
    MistralForCausalLM,
    MptForCausalLM,
    Phi3ForCausalLM,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionModel,
)

from paddlemix.checkpoints.layouts.components import open_torch_weights
from paddlemix.checkpoints.layouts.decoder import read_language_folder
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.shapes import language_shapes, parameter_shapes, vision_shapes
from paddlemix.checkpoints.layouts.tower import read_tower_folder
from paddlemix.checkpoints.source import open_source
from paddlemix.tensor_files.transforms import transposed

# MPT is no decoder of a LLaVA of transformers 5: its class has no `embed_tokens`.
FAMILIES = sorted(set(tiny.TEXT_CONFIGS) - {"mpt"})


def ours(translation) -> dict[str, np.ndarray]:
    translation.check("the folder")
    pairs = translation.tensors.items()
    return {name: (transposed(tensor) if is_transposed else tensor).values for name, (tensor, is_transposed) in pairs}


def check_tower(found, tower, start="vision_tower.") -> None:
    """Compare some tensors with those of a tower's module."""
    tower = getattr(tower, "vision_model", tower)
    layer = tower.encoder.layers[1]
    expected = {
        "patch_embedding.weight": tower.embeddings.patch_embedding.weight,
        "position_embedding": tower.embeddings.position_embedding.weight,
        "layers.1.self_attn.q_proj.weight": layer.self_attn.q_proj.weight.T,
        "layers.1.fc2.bias": layer.mlp.fc2.bias,
        "post_norm.weight": tower.post_layernorm.weight,
    }
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[start + name], tensor.detach().numpy(), err_msg=name)


def check_decoder(found, decoder, head) -> None:
    """Compare some tensors with those of a decoder's module; head: its weight, None for a tied one."""
    layer, start = decoder.layers[1], "language_model."
    attention = layer.self_attn
    keys = attention.qkv_proj.weight[48:64] if hasattr(attention, "qkv_proj") else attention.k_proj.weight
    expected = {
        "embed_tokens.weight": decoder.embed_tokens.weight,
        "layers.1.self_attn.k_proj.weight": keys.T,
        "layers.1.self_attn.o_proj.weight": attention.o_proj.weight.T,
        "layers.1.post_attention_layernorm.weight": layer.post_attention_layernorm.weight,
        "norm.weight": decoder.norm.weight,
        **({} if head is None else {"lm_head.weight": head.T}),
    }
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[start + name], tensor.detach().numpy(), err_msg=name)


def shapes_of(tensors) -> dict:
    return {name: tuple(values.shape) for name, values in tensors.items()}


@pytest.mark.parametrize("kind", tiny.TOWER_CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_llava_is_read(tmp_path, family, kind):
    strategy = "full" if kind == "siglip" else "default"
    is_next = family in ("llama", "qwen2")
    model = tiny.hf_model(is_next, strategy=strategy, vision={"kind": kind}, family=family)
    tiny.save_hf(model, tmp_path, is_next)
    source = open_source(tmp_path)
    config, found = source.config, {name: tensor.values for name, tensor in source.tensors.items()}
    assert shapes_of(found) == parameter_shapes(config)
    head = None if config.language.tie_word_embeddings else model.lm_head.weight
    check_decoder(found, model.model.language_model, head)
    check_tower(found, model.model.vision_tower)
    projector = model.model.multi_modal_projector.linear_2.weight.detach().numpy().T
    np.testing.assert_array_equal(found["projector.2.weight"], projector)


def whole(kind):
    classes = {
        "clip": (CLIPModel, CLIPConfig, CLIPTextConfig),
        "siglip": (SiglipModel, SiglipConfig, SiglipTextConfig),
    }
    model, config, text = classes[kind]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text_values = text(vocab_size=99, projection_size=32, **sizes) if kind == "siglip" else text(vocab_size=99, **sizes)
    return model(config(text_config=text_values.to_dict(), vision_config=tiny.vision_config(kind).to_dict()))


TOWERS = {
    "clip": lambda: CLIPVisionModel(tiny.vision_config("clip")),
    "siglip": lambda: SiglipVisionModel(tiny.vision_config("siglip")),
    "clip with its projection": lambda: CLIPVisionModelWithProjection(tiny.vision_config("clip")),
    "whole clip": lambda: whole("clip"),
    "whole siglip": lambda: whole("siglip"),
}


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS)
def test_every_tensor_of_a_tower_alone_is_read(tmp_path, make):
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path)
    config, translation = read_tower_folder(Folder(tmp_path), -2, "patch")
    found = ours(translation)
    assert shapes_of(found) == vision_shapes(config)
    check_tower(found, model)


DECODERS = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "phi3": Phi3ForCausalLM,
}


@pytest.mark.parametrize("family", DECODERS)
def test_every_tensor_of_a_decoder_alone_is_read(tmp_path, family):
    torch.manual_seed(0)
    model = DECODERS[family](tiny.text_config(family))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    config, _, translation = read_language_folder(Folder(tmp_path))
    found = ours(translation)
    assert shapes_of(found) == language_shapes(config)
    check_decoder(found, model.model, model.lm_head.weight)


def test_every_tensor_of_an_mpt_is_read(tmp_path):
    torch.manual_seed(0)
    model = MptForCausalLM(tiny.text_config("mpt"))
    model.save_pretrained(tmp_path)
    config, _, translation = read_language_folder(Folder(tmp_path))
    found = ours(translation)
    assert shapes_of(found) == language_shapes(config)
    values = model.transformer.blocks[1].attn.Wqkv.weight[96:].detach().numpy().T
    np.testing.assert_array_equal(found["language_model.layers.1.self_attn.v_proj.weight"], values)


def test_whole_file_wins_over_a_stale_index_as_in_transformers_5(tmp_path):
    model = LlamaForCausalLM(tiny.text_config())
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "lost.safetensors"}}')
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).lm_head.weight.detach().numpy()
    np.testing.assert_array_equal(open_torch_weights(Folder(tmp_path))["lm_head.weight"].values, theirs)
