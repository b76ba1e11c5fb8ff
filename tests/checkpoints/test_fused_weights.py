"""Matrices that fuse several of ours: xtuner's Phi-3-mini to every layout, adapters on them, and wrong heights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference_models as tiny
import tiny_folder
import torch
from internlm_torch import InternLM
from safetensors.torch import load_file, save_file
from torch_folders import change_weights, factor_tensors, random_factors, write_peft, write_projector, write_tower
from transformers import AutoTokenizer, LlamaForCausalLM, LlavaForConditionalGeneration, Phi3ForCausalLM

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.fused_weights import joined, split
from paddlemix.checkpoints.layouts.rules import FusedRule
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.checkpoints.verify import compare_logits, compare_tensors
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.tensor_files.stored import CheckpointError, from_array
from paddlemix.tensor_files.transforms import gathered_rows, open_regions, transposed

WIDTH, KEYS, INNER = 48, 16, 80  # of the tiny model: queries, keys or values, feed-forward
WINDOW = 8  # of the fixture phi
TARGETS = [
    f"model.language_model.layers.{name}.weight"
    for name in ("0.self_attn.qkv_proj", "1.mlp.gate_up_proj", "2.self_attn.o_proj", "2.self_attn.qkv_proj")
]


@pytest.fixture(scope="module")
def llm(phi, tmp_path_factory) -> Path:
    """The decoder in the layout of Microsoft's folder."""
    start = "model.language_model."
    decoder = Phi3ForCausalLM(phi.model.config.text_config)
    state = {
        name.replace(start, "model."): tensor
        for name, tensor in phi.model.state_dict().items()
        if name.startswith((start, "lm_head."))
    }
    decoder.load_state_dict(state)
    decoder.generation_config.eos_token_id = 2
    folder = tmp_path_factory.mktemp("llm")
    decoder.save_pretrained(folder)
    return folder


def write_xtuner(folder: Path, phi, llm: Path | None) -> Path:
    write_projector(folder / "projector", phi.model)
    write_tower(folder / "visual_encoder", phi.model)
    if llm is not None:
        shutil.copytree(llm, folder, dirs_exist_ok=True)
    return folder


def unfused(llm: Path) -> dict[str, torch.Tensor]:
    """Return the decoder's tensors as a LLaMA has them."""
    state = {}
    for name, tensor in load_file(llm / "model.safetensors").items():
        if "qkv_proj" in name:
            parts = zip("qkv", tensor.split([WIDTH, KEYS, KEYS]), strict=True)
            state |= {name.replace("qkv_proj", f"{letter}_proj"): part for letter, part in parts}
        elif "gate_up_proj" in name:
            parts = zip(("gate", "up"), tensor.chunk(2), strict=True)
            state |= {name.replace("gate_up_proj", f"{word}_proj"): part for word, part in parts}
        else:
            state[name] = tensor
    return state


def test_xtuners_phi_3_becomes_a_llama_for_llavas_own_code(phi, llm, tmp_path):
    folder = write_xtuner(tmp_path / "xtuner", phi, llm)
    phi.check_folder(folder)
    report = convert(folder, tmp_path / "official", "official", checks=[compare_tensors, compare_logits])
    stored = load_file(tmp_path / "official" / "model.safetensors")
    expected = unfused(llm)
    decoder = {name for name in stored if name.startswith(("model.layers", "model.embed", "model.norm", "lm_head"))}
    assert decoder == expected.keys()
    assert all(torch.equal(stored[name], values) for name, values in expected.items())
    raw = json.loads((tmp_path / "official" / "config.json").read_text())
    assert (raw["architectures"], raw["model_type"]) == (["LlavaLlamaForCausalLM"], "llava")
    assert "sliding_window" not in raw
    assert any(f"without its sliding window: the same up to {WINDOW} positions" in note for note in report.notes)
    assert read_config(tmp_path / "official").language == read_config(folder).language
    phi.check_folder(tmp_path / "official")


def test_a_llama_made_of_phi_3_computes_the_same_within_the_window(phi, llm, tmp_path):
    convert(write_xtuner(tmp_path / "xtuner", phi, llm), tmp_path / "official", "official")
    values = json.loads((tmp_path / "official" / "config.json").read_text())
    values |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "official" / "config.json").write_text(json.dumps(values))
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "official").eval()
    batch = tiny.make_batch(np.random.default_rng(0), [[2 * WINDOW]], read_config(phi.folder).image)
    ours, theirs = (tiny.hf_logits(model, batch, False) for model in (llama, phi.model))
    np.testing.assert_allclose(ours[:, :WINDOW], theirs[:, :WINDOW], atol=1e-5)
    assert np.abs(ours - theirs).max() > 0.1


def test_xtuners_phi_3_becomes_transformers_and_keeps_the_fused_matrices(phi, llm, tmp_path):
    convert(write_xtuner(tmp_path / "xtuner", phi, llm), tmp_path / "hf", "hf", max_shard_size="60KB")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.text_config.model_type == "phi3"
    state = theirs.state_dict()
    for name, tensor in phi.model.state_dict().items():
        rows = slice(0, len(tensor)) if tensor.ndim else ...
        assert torch.equal(state[name][rows], tensor), name
    convert(tmp_path / "hf", tmp_path / "back", "xtuner")
    before, after = (load_file(place / "model.safetensors") for place in (llm, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def adapted(phi):
    """Return the reference with a merged adapter, and its factors."""
    options = {"family": "phi3", "sliding_window": WINDOW, "vision": {"num_attention_heads": 1}}
    other = tiny.hf_model(False, **options)
    other.load_state_dict(phi.model.state_dict())
    factors = random_factors(other, TARGETS, 4)
    change_weights(other, factors, 6 / 4)
    return other, factors


@pytest.mark.parametrize("layout", ["xtuner", "hf"])
def test_adapter_on_fused_matrices_is_merged_over_every_kind_of_base(phi, llm, tmp_path, layout):
    other, factors = adapted(phi)
    if layout == "xtuner":  # names are the language model's
        folder = write_xtuner(tmp_path / "out", phi, None)
        tensors = factor_tensors(factors, lambda name: name.replace("model.language_model.", "model."))
        write_peft(folder / "llm_adapter", tensors, base_model_name_or_path=str(llm))
    else:  # names are those of transformers' LLaVA
        folder = write_peft(tmp_path / "out", factor_tensors(factors, lambda name: name))
        values = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": str(phi.folder)}))
    expected = tiny.hf_logits(other, phi.batch, False)
    np.testing.assert_allclose(load_model(folder, device="cpu")(phi.batch).numpy(), expected, atol=1e-4)
    assert np.abs(expected - phi.logits).max() > 0.1
    convert(folder, tmp_path / "merged", "hf", checks=[compare_tensors])
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").state_dict()
    for name in TARGETS:
        np.testing.assert_allclose(merged[name].numpy(), other.state_dict()[name].numpy(), atol=1e-5, err_msg=name)


def test_adapter_of_another_height_is_refused(phi, llm, tmp_path):
    folder = write_xtuner(tmp_path / "out", phi, None)
    tensors = {"model.layers.0.self_attn.qkv_proj.lora_A.weight": torch.ones(4, WIDTH)}
    tensors["model.layers.0.self_attn.qkv_proj.lora_B.weight"] = torch.ones(WIDTH, 4)
    write_peft(folder / "llm_adapter", tensors, base_model_name_or_path=str(llm))
    with pytest.raises(CheckpointError, match=r"was trained on another model, these do not fit the base: .*qkv_proj"):
        load_model(folder, device="cpu")
    other = write_peft(
        tmp_path / "hf",
        {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()},
    )
    with pytest.raises(CheckpointError, match=r"qkv_proj.weight has the shape \[48, 4\], expected 80 rows"):
        load_model(other, base=phi.folder, device="cpu")


def damaged_phi(tmp_path: Path, phi, llm: Path) -> tuple[Path, str]:
    folder = write_xtuner(tmp_path / "out", phi, llm)
    state = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.qkv_proj.weight"
    state[name] = state[name][:-8].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, r"qkv_proj\.weight has the shape \[72, 48\], expected 80 rows: \(48 \+ 16 \+ 16\) for q_proj, k_proj"


def damaged_internlm2(tmp_path: Path, phi, llm: Path) -> tuple[Path, str]:
    folder = write_xtuner(tmp_path / "out", phi, InternLM(2, num_key_value_heads=3).save(tmp_path / "llm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 2}))
    text = r"attention\.wqkv\.weight has the shape \[96, 48\], expected 80 rows: 2 x \(24 \+ 8 \+ 8\) for q_proj"
    return folder, text


@pytest.mark.parametrize("damage", [damaged_phi, damaged_internlm2])
def test_wrong_height_of_a_fused_matrix_is_one_clear_error(phi, llm, tmp_path, damage):
    folder, text = damage(tmp_path, phi, llm)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")
    with pytest.raises(CheckpointError, match=text):
        convert(folder, tmp_path / "converted", "paddle")
    assert not (tmp_path / "converted").exists()
    assert any("expected 80 rows" in problem for problem in inspect(folder).problems)


@pytest.mark.parametrize("name", ["phi3", "internlm", "internlm2"])
def test_separate_language_model_is_composed(phi, llm, tmp_path, name):
    rows = tiny_folder.VOCAB_SIZE
    if name == "phi3":
        torch.manual_seed(0)
        decoder = Phi3ForCausalLM(tiny.text_config("phi3", vocab_size=rows)).eval()
        decoder.save_pretrained(tmp_path / "llm")
    else:
        decoder = InternLM({"internlm": 1, "internlm2": 2}[name], vocab_size=rows)
        decoder.save(tmp_path / "llm")
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, tmp_path / "llm")
    write_tower(tmp_path / "tower", phi.model)
    config = compose(tmp_path / "llm", tmp_path / "tower", tmp_path / "out", Choices())
    assert (config.language.family, config.untrained) == (name, ("projector",))
    assert config.template == {"phi3": "phi_3", "internlm": "internlm_chat", "internlm2": "internlm2_chat"}[name]
    batch = tiny.make_batch(np.random.default_rng(0), [[20]], config.image)
    ids = torch.tensor(batch.token_ids)
    with torch.no_grad():
        expected = decoder(ids).logits if name == "phi3" else decoder(decoder.embed(ids))
    ours = load_model(tmp_path / "out", device="cpu")(batch).numpy()
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)


def test_tokenizer_with_remote_code_becomes_one_of_transformers(phi, tmp_path):
    InternLM(2, vocab_size=tiny_folder.VOCAB_SIZE).save(tmp_path / "llm")
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, tmp_path / "llm")
    settings = json.loads((tmp_path / "llm" / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "InternLM2Tokenizer", "legacy": None}
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    (tmp_path / "llm" / "tokenizer_config.json").write_text(json.dumps(settings))
    write_tower(tmp_path / "tower", phi.model)
    compose(tmp_path / "llm", tmp_path / "tower", tmp_path / "ours", Choices())
    tokenizer = load_tokenizer(tmp_path / "ours")
    for layout in ("hf", "official", "xtuner"):
        convert(tmp_path / "ours", tmp_path / layout, layout)
        theirs = AutoTokenizer.from_pretrained(tmp_path / layout, use_fast=False)
        text = "How many shapes? A red square."
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text, is_start=True)


RULE = FusedRule(
    ("a.q.weight", "a.k.weight", "a.v.weight"), "a.qkv.weight", (4, 2, 2), num_groups=3, is_transposed=True
)


def test_grouped_rows_are_split_and_joined_as_axes_say():
    values = np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    groups = values.reshape(3, 8, 5)
    expected = [groups[:, rows].reshape(-1, 5) for rows in (slice(0, 4), slice(4, 6), slice(6, 8))]
    parts = split(RULE, from_array(values))
    for part, wanted in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.values, wanted)
        assert part.shape == wanted.shape
    ours = {name: transposed(part) for name, part in zip(RULE.ours, parts, strict=True)}
    np.testing.assert_array_equal(joined(RULE, ours).values, values)
    with pytest.raises(CheckpointError, match=r"a\.qkv\.weight cannot be written without a\.k\.weight"):
        joined(RULE, {name: tensor for name, tensor in ours.items() if "k" not in name})


def test_regions_of_gathered_rows_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    sources = [from_array(rng.standard_normal((rows, 5)).astype(np.float32)) for rows in (6, 3)]
    gathered = gathered_rows(sources, [(0, 4, 6), (1, 0, 2), (0, 0, 1), (1, 2, 3)], "joined")
    first, second = (source.values for source in sources)
    whole = np.concatenate([first[4:6], second[:2], first[:1], second[2:]])
    np.testing.assert_array_equal(gathered.values, whole)
    region = open_regions(gathered)
    for start in range(6):
        for stop in range(start + 1, 7):
            np.testing.assert_array_equal(region(slice(start, stop), slice(1, 4)), whole[start:stop, 1:4])
    with pytest.raises(CheckpointError, match="cannot be joined"):
        gathered_rows([sources[0], from_array(np.zeros((2, 4), np.float32))], [(0, 0, 1), (1, 0, 1)], "joined")
