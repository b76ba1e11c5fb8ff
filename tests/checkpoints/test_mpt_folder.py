"""LLaVA over MPT, which stores queries, keys and values in one matrix: folders as its own code leaves them."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from safetensors.torch import load_file
from torch_folders import ANYRES, change_weights, factor_tensors, random_factors, write_peft, write_torch, write_tower

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.components import decoder_rules
from paddlemix.checkpoints.layouts.fused_weights import as_ours
from paddlemix.checkpoints.layouts.output_part import renamed
from paddlemix.checkpoints.layouts.rules import KeyTable
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import open_source, read_config
from paddlemix.models.config import LanguageConfig
from paddlemix.tensor_files.stored import CheckpointError, StoredTensor
from paddlemix.tensor_files.transforms import transposed

# Parts of transformers' names in memory, and the same parts in LLaVA's own code over MPT.
OFFICIAL = (
    ("model.language_model.", "transformer."),
    ("model.vision_tower.", "transformer.vision_tower.vision_tower."),
    ("model.multi_modal_projector.linear_1.", "transformer.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "transformer.mm_projector.2."),
    ("model.image_newline", "transformer.image_newline"),
)
WQKV = "model.language_model.blocks.1.attn.Wqkv.weight"
TARGETS = [WQKV, "model.language_model.blocks.0.ffn.up_proj.weight"]


@pytest.fixture(scope="module")
def reference(make_reference, tmp_path_factory):
    return make_reference(tmp_path_factory.mktemp("mpt"), True, family="mpt")


def official_name(name: str) -> str:
    for old, new in OFFICIAL:
        name = name.replace(old, new)
    return name


def write_official(folder, model, *, has_tower: bool, without: tuple[str, ...] = (), **changes):
    """Write what LlavaMptForCausalLM saves, with MosaicML's keys."""
    state = {official_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if has_tower or "vision_tower" not in name}
    write_torch(folder, {name: tensor for name, tensor in state.items() if name not in without}, "bin")
    text = model.config.text_config
    values = {
        "architectures": ["LlavaMptForCausalLM"],
        "model_type": "llava_mpt",
        **{name: getattr(text, name) for name in ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size")},
        "attn_config": {"alibi": True, "attn_impl": "triton", "clip_qkv": None, "qk_ln": False},
        "expansion_ratio": 4,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 32,
        "mm_vision_tower": "openai/clip",
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        **ANYRES,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("has_tower", [True, False])
def test_official_folder_gives_transformers_logits(reference, tmp_path, has_tower):
    write_tower(tmp_path / "clip", reference.model)
    folder = write_official(tmp_path / "x", reference.model, has_tower=has_tower)
    reference.check_folder(folder)
    config = read_config(folder)
    assert (config.template, config.language.family) == ("mpt", "mpt")
    found = inspect(folder)
    assert (found.missing, found.unknown, found.misshapen) == ([], [], [])
    by_name = {part.name: (part.num_parameters, part.num_expected) for part in found.components}
    assert by_name["layers"][0] == by_name["layers"][1] > 0 and by_name["embeddings"] == (99 * 48, 99 * 48)


def test_older_class_is_recognized_by_its_model_type_and_may_lack_the_tied_head(reference, tmp_path):
    write_tower(tmp_path / "clip", reference.model)
    changes = {"architectures": ["LlavaMPTForCausalLM"]}
    reference.check_folder(
        write_official(tmp_path / "x", reference.model, has_tower=True, without=("lm_head.weight",), **changes)
    )


@pytest.mark.parametrize("layout", ["official", "xtuner"])
def test_stored_matrix_is_written_as_the_reference_has_it(make_reference, tmp_path, layout):
    source = make_reference(tmp_path / "hf", False, family="mpt")
    convert(source.folder, tmp_path / "out", layout)
    state = load_file(tmp_path / "out" / "model.safetensors")
    expected = source.model.state_dict()
    for number in range(3):
        for part in ("attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj", "norm_1", "norm_2"):
            name = f"blocks.{number}.{part}.weight"
            assert torch.equal(state[f"transformer.{name}"], expected[f"model.language_model.{name}"]), name
    assert not [name for name in state if "q_proj" in name and "vision_tower" not in name]


def test_adapter_of_the_stored_matrix_changes_its_three_parts(reference, tmp_path):
    other = tiny.hf_model(True, vision={"num_attention_heads": 1}, family="mpt")
    other.load_state_dict(reference.model.state_dict())
    factors = random_factors(other, TARGETS, 4)
    change_weights(other, factors, 6 / 4)
    folder = write_peft(tmp_path / "x", factor_tensors(factors, official_name))
    with paddle.no_grad():
        logits = load_model(folder, base=reference.folder, device="cpu")(reference.batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(other, reference.batch, True), atol=1e-4)
    assert np.abs(logits - reference.logits).max() > 0.1


def test_adapter_may_hold_more_rows_of_the_vocabulary(reference, tmp_path):
    vocabulary = torch.cat([reference.model.model.language_model.wte.weight.detach(), torch.ones(3, 48)])
    tensors = factor_tensors(random_factors(reference.model, TARGETS, 4), official_name)
    folder = write_peft(tmp_path / "x", {**tensors, "transformer.wte.weight": vocabulary})
    found = open_source(folder, base=reference.folder)
    assert found.config.language.vocab_size == 102
    np.testing.assert_array_equal(found.tensors["language_model.embed_tokens.weight"].values, vocabulary)


def test_nothing_is_read_before_a_part_is_asked_for():
    read = []
    values = np.arange(24, dtype=np.float32).reshape(12, 2)

    def whole() -> np.ndarray:
        read.append(1)
        return values

    language = LanguageConfig(hidden_size=4, num_attention_heads=2, head_dim=2, family="mpt")
    table = KeyTable(decoder_rules(language, "transformer.", "", is_torch=True))
    wqkv = "transformer.blocks.0.attn.Wqkv.weight"
    parts = as_ours(table, wqkv, StoredTensor("float32", (12, 2), whole))
    ours = {name: transposed(part) for name, (part, is_transposed) in reversed(parts.items()) if is_transposed}
    again = renamed(table, ours, "official")
    assert list(again) == [wqkv] and [part.shape for part, _ in parts.values()] == [(4, 2)] * 3 and not read
    for number, (name, (part, _)) in enumerate(parts.items()):
        assert name == f"language_model.layers.0.self_attn.{'qkv'[number]}_proj.weight"
        np.testing.assert_array_equal(part.values, values[4 * number : 4 * number + 4])
    np.testing.assert_array_equal(again[wqkv].values, values)


def test_stored_matrix_of_another_height_is_refused(reference, tmp_path):
    folder = write_official(tmp_path / "x", reference.model, has_tower=True, d_model=32, n_heads=4)
    write_tower(tmp_path / "clip", reference.model)
    message = r"attn\.Wqkv\.weight has the shape \[144, 48\], expected 96 rows: \(32 \+ 32 \+ 32\) for"
    with pytest.raises(CheckpointError, match=message):
        assert open_source(folder).tensors
    assert any("expected 96 rows" in problem for problem in inspect(folder).problems)
