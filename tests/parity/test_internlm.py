"""LLaVAs over InternLM 1 and 2, as xtuner trained them, against a restatement in torch: transformers has neither."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
import torch_folders
from cached_reader import CachedReader
from internlm_torch import InternLM
from safetensors.numpy import load_file
from test_families import GREEDY, LONG, NUM_NEW, ROWS, TOLERANCE, apart, batch_of, our_logits
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from paddlemix import LlavaForConditionalGeneration as OurLlava
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.data.sample import Batch
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train.freeze import lora_targets

VARIANTS = {
    "internlm": {"version": 1, "seed": 2},
    "internlm-8k": {"version": 1, "rotary": {"base": 5000, "type": "dynamic"}, "bias": False},
    "internlm2": {"version": 2},
    "internlm2-dynamic": {
        "version": 2,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "num_key_value_heads": 3,
        "seed": 2,
    },
    "internlm2-biases": {"version": 2, "bias": True, "num_key_value_heads": 6},
}
HAS_BIAS = ("internlm", "internlm2-biases")


@dataclass(frozen=True)
class Pair:
    """llm: InternLM in torch; eyes: a LLaVA of transformers for tower and projector; ours: the whole model."""

    llm: InternLM
    eyes: LlavaForConditionalGeneration
    folder: object
    ours: OurLlava

    @property
    def spec(self):
        return self.ours.config.image

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return token embeddings with the features of the images in their places."""
        ids = torch.tensor(np.where(batch.token_ids == IMAGE_TOKEN_ID, 0, batch.token_ids))
        embeds = self.llm.embed(ids)
        if batch.pixels is not None:
            features = torch.cat([*self.eyes.get_image_features(torch.tensor(batch.pixels))])
            embeds[torch.tensor(batch.token_ids == IMAGE_TOKEN_ID)] = features
        return embeds

    def logits(self, batch: Batch) -> np.ndarray:
        with torch.no_grad():
            return self.llm(self.embed(batch)).numpy()

    def answer(self, batch: Batch) -> list[int]:
        """Return the likeliest ids, every step reading the whole."""
        answer = []
        with torch.no_grad():
            embeds = self.embed(batch)
            for _ in range(NUM_NEW):
                token = self.llm(embeds)[:, -1].argmax(-1)
                answer.append(token.item())
                embeds = torch.cat([embeds, self.llm.embed(token[:, None])], 1)
        return answer


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(tmp_path_factory, variant):
    llm, eyes = InternLM(**VARIANTS[variant]), tiny.hf_model(False)
    folder = llm.save(tmp_path_factory.mktemp(variant) / "xtuner")
    torch_folders.write_projector(folder / "projector", eyes)
    torch_folders.write_tower(folder / "visual_encoder", eyes)
    return Pair(llm, eyes, folder, OurLlava.from_pretrained(folder, device="cpu"))


def test_logits_equal_the_restatement(pair):
    for rows in (ROWS.values(), [LONG]):
        batch = batch_of(pair, *rows)
        is_real = batch.segment_ids > 0
        theirs = pair.logits(batch)[is_real]
        assert theirs.std() > 0.1
        assert np.abs(our_logits(pair.ours, batch)[is_real] - theirs).max() < TOLERANCE


@pytest.mark.parametrize("row", [*ROWS.values(), LONG], ids=[*ROWS, "long"])
def test_greedy_ids_equal_the_restatement(pair, row):
    batch = batch_of(pair, row)
    expected = pair.answer(batch)
    assert len(set(expected)) > 2
    assert pair.ours.generate(batch, GREEDY) == [expected]


def test_cached_logits_equal_uncached_ones_however_the_prompt_is_cut(pair):
    batch = batch_of(pair, [30, (60, 40), 20])
    whole = our_logits(pair.ours, batch)
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)
    for cuts in ((whole.shape[1],), (5, 7, 30, whole.shape[1])):
        reader, start = CachedReader(pair.ours, 1, whole.shape[1]), 0
        for end in cuts:
            logits = reader.read(embeds[:, start:end])
            np.testing.assert_allclose(logits, whole[:, end - 1], atol=TOLERANCE)
            start = end


def test_rows_of_different_lengths_answer_as_one_row_at_a_time(pair):
    rows = list(ROWS.values())
    together = pair.ours.generate(batch_of(pair, *rows), GREEDY)
    assert together == [pair.ours.generate(part, GREEDY)[0] for part in apart(batch_of(pair, *rows), rows)]


@pytest.mark.parametrize("layout", ["hf", "official", "xtuner", "paddlemix", "paddle"])
def test_there_and_back_keeps_every_bit_and_the_configuration(tmp_path, pair, variant, layout):
    if layout == "paddlemix" and variant in HAS_BIAS:
        with pytest.raises(CheckpointError, match=r"cannot hold a decoder of .* with has_qkv_bias, has_out_bias: Padd"):
            convert(pair.folder, tmp_path / "there", layout)
        return
    convert(pair.folder, tmp_path / "there", layout, checks=[compare_tensors])
    convert(tmp_path / "there", tmp_path / "back", "xtuner", checks=[compare_tensors])
    before, after = (load_file(place / "model.safetensors") for place in (pair.folder, tmp_path / "back"))
    if layout == "paddlemix":  # its config names a LLaMA
        convert(pair.folder, tmp_path / "ours", "paddle")
        convert(tmp_path / "there", tmp_path / "theirs", "paddle")
        before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    first, last = read_config(pair.folder), read_config(tmp_path / "back")
    family = "llama" if layout == "paddlemix" else first.language.family
    assert last.language == dataclasses.replace(first.language, family=family)
    assert (last.template, last.eos_token_ids) == (first.template, first.eos_token_ids)


def test_transformers_runs_our_folder_as_a_llama(tmp_path, pair):
    convert(pair.folder, tmp_path / "hf", "hf")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.text_config.model_type == "llama"
    batch = batch_of(pair, [60])
    np.testing.assert_allclose(tiny.hf_logits(theirs, batch, False)[..., :99], pair.logits(batch), atol=TOLERANCE)
    convert(pair.folder, tmp_path / "official", "official")
    values = json.loads((tmp_path / "official" / "config.json").read_text())
    assert (values["architectures"], values["model_type"]) == (["LlavaLlamaForCausalLM"], "llava")
    values |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "official" / "config.json").write_text(json.dumps(values))
    llama, report = LlamaForCausalLM.from_pretrained(tmp_path / "official", output_loading_info=True)
    assert not report["missing_keys"] and all("mm_projector" in name for name in report["unexpected_keys"])
    np.testing.assert_allclose(tiny.hf_logits(llama, batch, False), pair.logits(batch), atol=TOLERANCE)


def test_xtuner_folder_names_the_code_files_to_copy(tmp_path, pair, variant):
    report = convert(pair.folder, tmp_path / "out", "xtuner")
    raw, stated = json.loads((tmp_path / "out" / "config.json").read_text()), pair.llm.config
    for key in ("architectures", "model_type", "bias", "hidden_size", "vocab_size", "rms_norm_eps"):
        assert raw[key] == stated[key], key
    assert raw["rope_scaling"] == stated.get("rope_scaling")
    assert raw["auto_map"]["AutoModelForCausalLM"] == stated["auto_map"]["AutoModelForCausalLM"]
    module = stated["auto_map"]["AutoModelForCausalLM"].partition(".")[0]
    assert any(f"copy configuration_{stated['model_type']}.py and {module}.py" in note for note in report.notes)


def test_defaults_are_internlms(pair, variant):
    config = pair.ours.config
    version = VARIANTS[variant]["version"]
    assert config.template == {1: "internlm_chat", 2: "internlm2_chat"}[version]
    assert config.eos_token_ids == (2,)
    assert len(lora_targets(pair.ours, None)) == 7 * config.language.num_hidden_layers


FACTORS = {1: ("self_attn.q_proj", "mlp.down_proj"), 2: ("attention.wqkv", "attention.wo", "feed_forward.w1")}


def test_adapter_of_internlms_own_layers_is_merged(tmp_path, pair, variant):
    version = VARIANTS[variant]["version"]
    names = [f"model.layers.{number}.{name}.weight" for number in (0, 2) for name in FACTORS[version]]
    factors = torch_folders.random_factors(pair.llm, names, 4)
    changed = InternLM(**VARIANTS[variant])
    changed.load_state_dict(pair.llm.state_dict())
    torch_folders.change_weights(changed, factors, 6 / 4)
    folder = tmp_path / "out"
    tensors = torch_folders.factor_tensors(factors, lambda name: name)
    torch_folders.write_peft(folder / "llm_adapter", tensors, base_model_name_or_path=str(pair.folder))
    torch_folders.write_projector(folder / "projector", pair.eyes)
    torch_folders.write_tower(folder / "visual_encoder", pair.eyes)
    batch = batch_of(pair, *ROWS.values())
    is_real = batch.segment_ids > 0
    expected = dataclasses.replace(pair, llm=changed).logits(batch)
    assert np.abs(our_logits(load_model(folder, device="cpu"), batch) - expected)[is_real].max() < 2 * TOLERANCE
    assert np.abs(pair.logits(batch) - expected)[is_real].max() > 0.1
    convert(folder, tmp_path / "merged", "xtuner", checks=[compare_tensors])
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, values in changed.state_dict().items():
        np.testing.assert_allclose(merged[name], values.numpy(), atol=1e-5, err_msg=name)
