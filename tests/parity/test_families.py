"""LLaVAs over every family of decoders against transformers: logits, generated ids, and weights there and back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from cached_reader import CachedReader
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.data.sample import Batch
from paddlemix.generate.sampling import SamplingParams
from paddlemix.models.config import LlavaConfig
from paddlemix.models.language.families import FAMILIES
from paddlemix.models.language.positions import frequency_scales
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train.freeze import lora_targets

TOLERANCE = 1e-4
NUM_NEW = 24
GREEDY = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True)
WINDOW = 8
# With these numbers the four frequencies of a head are kept, mixed, and divided twice.
LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.2, 2.0, 3.5, 6.0]}
VARIANTS = {
    "llama": {},
    "llama-3.1": {"rope_scaling": LLAMA_3_1},
    "llama-linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-biases": {"attention_bias": True},
    "smollm2": {"tie_word_embeddings": True, "rope_theta": 100000.0},
    "mistral": {"family": "mistral", "sliding_window": WINDOW},
    "mistral-0.2": {"family": "mistral", "sliding_window": None},
    "qwen2": {"family": "qwen2", "rms_norm_eps": 1e-6},
    "qwen2-window": {
        "family": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "mpt": {"family": "mpt", "max_seq_len": 1024},
    "mpt-options": {"family": "mpt", "n_heads": 8, "attn_config": {"clip_qkv": 2.0, "softmax_scale": 0.5}},
    "gemma": {"family": "gemma", "rms_norm_eps": 1e-6},
    "phi3": {"family": "phi3", "num_key_value_heads": 6, "seed": 1},
    "phi3-window": {"family": "phi3", "sliding_window": WINDOW},
    "phi3-longrope": {"family": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 128},
    "ernie4_5": {"family": "ernie4_5"},
    "ernie4_5-untied": {
        "family": "ernie4_5",
        "tie_word_embeddings": False,
        "head_dim": 8,
        "num_key_value_heads": 6,
        "rope_scaling": LLAMA_3_1,
    },
}
ROWS = {"one": [4, (60, 40), 9], "no-image": [17], "two": [3, (30, 90), 6, (20, 90), 5]}
# MPT's parts of names, and ours.
MPT_PARTS = (
    ("wte", "embed_tokens"),
    ("norm_f", "norm"),
    ("blocks", "layers"),
    ("norm_1", "input_layernorm"),
    ("norm_2", "post_attention_layernorm"),
    ("attn.Wqkv", "self_attn.{}_proj"),
    (".attn.out_proj", ".self_attn.o_proj"),
    ("ffn", "mlp"),
)
LONG = [150, (60, 40), 60]  # beyond the original context above
PLAIN = ("llama", "llama-3.1", "llama-linear", "smollm2", "mistral-0.2", "phi3")  # LLaMAs, whatever they are called
NO_LLAVA_CLASS = ("ernie4_5", "ernie4_5-untied")  # in LLaVA's own code, nor another class that computes the same
NOT_STORED = {("paddlemix", name) for name in VARIANTS if name not in PLAIN}
NOT_STORED |= {("official", name) for name in NO_LLAVA_CLASS}
if tiny.IS_VERSION_5:  # whose Gemma does not scale image features, which only two layouts can say
    NOT_STORED |= {("official", "gemma"), ("xtuner", "gemma")}
REFUSALS = {"paddlemix": "with .*: PaddleMIX has LLaMA", "official": ".*no class that computes it"}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(make_pair, variant):
    return make_pair(False, **VARIANTS[variant])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pair, variant):
    """The reference model in our own layout."""
    folder = tmp_path_factory.mktemp(variant)
    tiny.save_hf(pair.theirs, folder / "hf", False)
    convert(folder / "hf", folder / "ours", "paddle")
    return folder / "ours"


def batch_of(pair, *rows, seed: int = 4) -> Batch:
    return tiny.make_batch(np.random.default_rng(seed), rows, pair.spec)


def our_logits(model, batch: Batch) -> np.ndarray:
    with paddle.no_grad():
        return model(batch).numpy()


def test_logits_equal_transformers(pair):
    for rows in (ROWS.values(), [LONG]):
        batch = batch_of(pair, *rows)
        is_real = batch.segment_ids > 0
        theirs = tiny.hf_logits(pair.theirs, batch, False)[is_real]
        assert theirs.std() > 0.1
        assert np.abs(our_logits(pair.ours, batch)[is_real] - theirs).max() < TOLERANCE


@pytest.mark.parametrize("variant", ["mistral", "qwen2-window", "phi3-window", "mpt"], indirect=True)
def test_prompts_longer_than_an_attention_block_give_transformers_logits(pair):
    for length in (260, 520):
        batch = batch_of(pair, [length])
        theirs = tiny.hf_logits(pair.theirs, batch, False)
        assert np.abs(our_logits(pair.ours, batch) - theirs).max() < TOLERANCE


@pytest.mark.parametrize("variant", ["mpt"], indirect=True)
def test_distances_count_within_a_row_however_it_is_padded_packed_and_cut(pair):
    batch = batch_of(pair, [30], [560])
    parts = apart(batch, [[30], [560]])
    expected = [our_logits(pair.ours, part) for part in parts]
    is_real = batch.segment_ids > 0
    np.testing.assert_allclose(our_logits(pair.ours, batch)[is_real], np.concatenate(expected, 1)[0], atol=TOLERANCE)
    np.testing.assert_allclose(our_logits(pair.ours, packed(parts)), np.concatenate(expected, 1), atol=TOLERANCE)
    long = parts[1]
    reader = CachedReader(pair.ours, 1, 600)
    with paddle.no_grad():
        embeds = pair.ours.embed(long)
    for start, end in ((0, 3), (3, 530), (530, 560), (560, 561)):
        logits = reader.read(embeds[:, start:end])
        np.testing.assert_allclose(logits, expected[1][:, end - 1], atol=TOLERANCE)
    assert pair.ours.generate(batch, GREEDY) == [pair.ours.generate(part, GREEDY)[0] for part in parts]


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("llama-3.1", {"rope_scaling": None}),
        ("llama-linear", {"rope_scaling": None}),
        ("mistral", {"sliding_window": None}),
        ("qwen2-window", {"sliding_window": None}),
        ("qwen2-window", {"num_full_layers": 0}),
        ("mpt", {"positions": "rotary"}),
        ("mpt", {"activation": "silu"}),
        ("mpt", {"norm": "rms"}),
        ("mpt-options", {"clip_qkv": None}),
        ("mpt-options", {"softmax_scale": None}),
        ("gemma", {"embedding_scale": 1.0}),
        ("gemma", {"norm_offset": 0.0}),
        ("gemma", {"activation": "silu"}),
        ("phi3-window", {"sliding_window": None}),
        ("phi3-longrope", {"rope_scaling": None}),
        ("ernie4_5", {"rope_order": "halves"}),
        ("ernie4_5-untied", {"rope_scaling": None}),
    ],
    indirect=["variant"],
)
def test_the_option_of_a_variant_matters_for_its_logits(pair, folder, changes):
    model = load_model(folder, device="cpu")
    language = dataclasses.replace(model.config.language, **changes)
    model.language_model = rebuilt(model.language_model, language)
    batch = batch_of(pair, LONG)
    assert np.abs(our_logits(model, batch) - our_logits(pair.ours, batch)).max() > 100 * TOLERANCE


def rebuilt(language_model, config):
    """Return a decoder with the same weights and another configuration."""
    other = type(language_model)(config)
    other.set_state_dict(language_model.state_dict())
    other.eval()
    return other


@pytest.mark.parametrize("family", tiny.TEXT_CONFIGS)
def test_llava_1_6_over_every_family_gives_transformers_logits(make_pair, family):
    pair = make_pair(True, family=family)
    batch = batch_of(pair, [4, (60, 40), 9], [(90, 30), 3])
    is_real = batch.segment_ids > 0
    theirs = tiny.hf_logits(pair.theirs, batch, True)[is_real]
    assert np.abs(our_logits(pair.ours, batch)[is_real] - theirs).max() < TOLERANCE


@pytest.mark.parametrize("row", [*ROWS.values(), LONG], ids=[*ROWS, "long"])
def test_greedy_ids_equal_transformers(pair, row):
    batch = batch_of(pair, row)
    inputs = tiny.hf_inputs(batch, False)
    with torch.no_grad():
        whole = pair.theirs.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
    theirs = whole[0, batch.token_ids.shape[1] :].tolist()
    is_tied = pair.ours.config.language.tie_word_embeddings  # random ones mostly repeat the token before
    assert is_tied or tiny.IS_VERSION_5 or len(set(theirs)) > 2  # version 5 draws other random weights
    assert pair.ours.generate(batch, GREEDY) == [theirs]


def test_cached_logits_equal_uncached_ones_however_the_prompt_is_cut(pair):
    batch = batch_of(pair, [30, (60, 40), 20])
    whole = our_logits(pair.ours, batch)
    length = whole.shape[1]
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)
    for cuts in ((length,), (5, 7, 8, 9, 30, length), tuple(range(1, length + 1))):
        reader, start = CachedReader(pair.ours, 1, length), 0
        for end in cuts:
            logits = reader.read(embeds[:, start:end])
            np.testing.assert_allclose(logits, whole[:, end - 1], atol=TOLERANCE)
            start = end


def test_rows_of_different_lengths_answer_as_one_row_at_a_time(pair):
    rows = list(ROWS.values())
    together = pair.ours.generate(batch_of(pair, *rows), GREEDY)
    alone = [pair.ours.generate(part, GREEDY)[0] for part in apart(batch_of(pair, *rows), rows)]
    assert together == alone


def apart(batch: Batch, rows) -> list[Batch]:
    """Cut a batch into its rows, without padding and with their own images."""
    parts, first = [], 0
    for number, row in enumerate(rows):
        length = int((batch.segment_ids[number] > 0).sum())
        last = first + sum(isinstance(part, tuple) for part in row)
        arrays = {
            name: getattr(batch, name)[number : number + 1, :length]
            for name in ("token_ids", "position_ids", "segment_ids")
        }
        images = {
            name: getattr(batch, name)[first:last] if last > first else None
            for name in ("pixels", "tiles_per_image", "image_sizes")
        }
        images = {name: value for name, value in images.items() if value is not None}
        parts.append(Batch(arrays["token_ids"], None, arrays["position_ids"], arrays["segment_ids"], **images))
        first = last
    return parts


def test_packed_rows_give_the_logits_of_separate_ones(pair):
    parts = apart(batch_of(pair, [17], [23]), [[17], [23]])
    expected = np.concatenate([our_logits(pair.ours, part) for part in parts], 1)
    np.testing.assert_allclose(our_logits(pair.ours, packed(parts)), expected, atol=TOLERANCE)


def packed(parts: list[Batch]) -> Batch:
    """Concatenate rows into one."""
    ids, positions = (np.concatenate([getattr(p, n) for p in parts], 1) for n in ("token_ids", "position_ids"))
    segments = np.concatenate([(number + 1) * part.segment_ids for number, part in enumerate(parts)], 1)
    return Batch(ids, None, positions, segments)


@pytest.mark.parametrize(
    "variant", ["llama-3.1", "mistral", "qwen2", "mpt", "mpt-options", "gemma", "ernie4_5"], indirect=True
)
def test_loss_and_gradients_equal_transformers(pair):
    batch = tiny.make_batch(np.random.default_rng(0), [[4, (60, 40), 9], [30]], pair.spec, with_labels=True)
    loss = pair.ours.loss(batch)
    loss.backward()
    theirs = pair.theirs(**tiny.hf_inputs(batch, False)).loss
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    found = {name: value.grad.numpy() for name, value in pair.ours.language_model.named_parameters()}
    expected = {
        ours: gradient
        for name, parameter in pair.theirs.model.language_model.named_parameters()
        for ours, gradient in our_parts(name, parameter.grad)
    }
    if "lm_head.weight" in found:
        expected["lm_head.weight"] = pair.theirs.lm_head.weight.grad.numpy().T
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = np.linalg.norm(expected[name])
        assert scale > 0 and np.linalg.norm(gradient - expected[name]) <= 1e-3 * scale, name
    pair.theirs.zero_grad()
    pair.ours.clear_gradients()


def our_parts(name: str, tensor: torch.Tensor):
    """Yield our names of a tensor of MPT's, or of a family with ours, and its values in our orientation."""
    is_matrix = tensor.ndim == 2 and not name.startswith(("wte", "embed_tokens"))
    parts = tensor.chunk(3) if "Wqkv" in name else [tensor]
    for letter, part in zip("qkv", parts, strict=False):
        ours = name
        for old, new in MPT_PARTS:
            ours = ours.replace(old, new.format(letter))
        yield ours, part.numpy().T if is_matrix else part.numpy()


@pytest.mark.parametrize("layout", ["hf", "official", "xtuner", "paddlemix", "paddle"])
def test_there_and_back_keeps_every_bit_and_the_configuration(tmp_path, folder, variant, layout):
    if (layout, variant) in NOT_STORED:
        is_unscaled = variant == "gemma" and layout != "paddlemix"
        text = "cannot hold this model: its image features are not multiplied" if is_unscaled else ""
        with pytest.raises(CheckpointError, match=text or f"cannot hold a decoder of family '.*' ?{REFUSALS[layout]}"):
            convert(folder, tmp_path / "there", layout)
        return
    convert(folder, tmp_path / "there", layout)
    convert(tmp_path / "there", tmp_path / "back", "paddle")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert_same_config(read_config(folder), read_config(tmp_path / "back"), layout)


def assert_same_config(before: LlavaConfig, after: LlavaConfig, layout: str) -> None:
    """Compare all fields that a layout can store: not the family of a LLaMA-like decoder, nor a tower's name."""
    if layout == "paddlemix":
        before = dataclasses.replace(before, language=dataclasses.replace(before.language, family="llama"))
    assert after.language == before.language
    assert after.template == before.template
    assert after.eos_token_ids == before.eos_token_ids


def test_transformers_loads_our_folder_and_computes_the_same(tmp_path, pair, folder, variant):
    convert(folder, tmp_path / "hf", "hf")
    theirs, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    theirs.eval()
    family = VARIANTS[variant].get("family", "llama")
    assert theirs.config.text_config.model_type == family
    batch = batch_of(pair, [60])  # without `<image>`, whose id is another now
    again = tiny.hf_logits(theirs, batch, False)[..., :99]
    np.testing.assert_allclose(again, tiny.hf_logits(pair.theirs, batch, False), atol=TOLERANCE)
    if ("xtuner", variant) in NOT_STORED:
        return
    convert(folder, tmp_path / "xtuner", "xtuner")
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "xtuner").eval()
    assert type(llm).__name__ == FAMILIES[family].architecture
    np.testing.assert_allclose(tiny.hf_logits(llm, batch, False), again, atol=TOLERANCE)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if ("official", name) not in NOT_STORED], indirect=True)
def test_official_folder_names_the_class_over_the_decoder(tmp_path, folder, variant):
    convert(folder, tmp_path / "official", "official")
    values = json.loads((tmp_path / "official" / "config.json").read_text())
    names = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM", "qwen2": "LlavaQwenForCausalLM"}
    names |= {"mpt": "LlavaMptForCausalLM", "gemma": "LlavaGemmaForCausalLM"}
    names["phi3"] = names["llama"]  # there is no separate class there
    family = VARIANTS[variant].get("family", "llama")
    assert values["architectures"] == [names[family]]
    if names[family] == names["llama"]:
        return
    del values["architectures"]  # model_type alone identifies it too
    (tmp_path / "official" / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path / "official").language.family == family


def test_family_names_the_layers_that_lora_adapts(pair):
    language = pair.ours.config.language
    found = lora_targets(pair.ours, None)
    assert len(found) == (7 if language.is_gated else 6) * language.num_hidden_layers
    assert all(name.startswith("language_model.layers.") for name in found)


@pytest.mark.parametrize("variant", ["llama-3.1", "llama-linear"])
def test_scaled_frequencies_of_a_large_model_are_those_of_transformers(variant):
    scaling = {**VARIANTS[variant]["rope_scaling"]}
    scaling |= {"original_max_position_embeddings": 8192} if variant == "llama-3.1" else {}
    theirs = tiny.text_config(head_dim=128, rope_theta=500000.0, rope_scaling=scaling, max_position_embeddings=131072)
    expected, _ = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
    ours = frequency_scales(FAMILIES["llama"].read(theirs.to_dict()))
    np.testing.assert_allclose(ours, (expected / plain).numpy(), rtol=1e-5)


def test_config_survives_json(pair):
    config = pair.ours.config
    assert LlavaConfig.from_dict(json.loads(json.dumps(config.to_dict()))).language == config.language


def test_config_without_family_keys_is_a_llama():
    values = {"vocab_size": 99, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 3}
    language = LlavaConfig.from_dict({"language": values}).language
    assert (language.family, language.rope_scaling, language.sliding_window) == ("llama", None, None)
    assert not language.has_qkv_bias and not language.has_out_bias
    assert (language.norm, language.norm_offset, language.activation, language.is_gated) == ("rms", 0.0, "silu", True)
    assert (language.positions, language.embedding_scale, language.clip_qkv) == ("rotary", 1.0, None)


@pytest.mark.parametrize(
    ("family", "stated", "text"),
    [
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "kind 'yarn' is not supported"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "of kind 'linear' has no factor"),
        ("llama", {"rope_scaling": {**LLAMA_3_1, "low_freq_factor": 4.0}}, "expected the first below the second"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0, expected a number above 0"),
        ("llama", {"rope_scaling": LONGROPE}, "4 numbers as short_factor, expected 64"),
        ("phi3", {"rope_scaling": {**LONGROPE, "type": "yarn"}}, "kind 'yarn' is not supported"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "kind 'linear' is not supported for phi3"),
        ("phi3", {"rope_scaling": LONGROPE}, "has 4 numbers as short_factor, expected 48"),
        (
            "phi3",
            {"rope_scaling": {**LONGROPE, "long_factor": [1.0, "x"]}},
            r"long_factor is \[1.0, 'x'\], expected a list",
        ),
        ("phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor is 0.75, expected 1.0"),
        (
            "internlm",
            {"rotary": {"base": 10000, "type": "alibi"}},
            "rotary positions of type 'alibi', expected 'origin'",
        ),
        ("internlm2", {"rope_scaling": {"type": "yarn"}}, "kind 'yarn' is not supported"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            "expected 0 layers of 'full_attention', then 32 of",
        ),
        (
            "mpt",
            {"attn_config": {"qk_ln": True, "prefix_lm": True, "attn_uses_sequence_id": True, "alibi": False}},
            "qk_ln True .expected False., prefix_lm True .*attn_uses_sequence_id True .*alibi False .expected True.",
        ),
        (
            "mpt",
            {"attn_config": {"alibi_bias_max": 16}},
            r"attn_config of an MPT states alibi_bias_max 16 \(expected 8\)",
        ),
        ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type 'multiquery_attention'"),
        ("mpt", {"attn_config": {"attn_type": "grouped_query_attention"}}, "attn_type 'grouped_query_attention'"),
        ("mpt", {"expansion_ratio": 2, "no_bias": False}, r"expansion_ratio 2 \(expected 4\), no_bias False"),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale 'inv_sqrt_d_model'"),
        ("mpt", {"norm_type": "rmsnorm"}, "norm_type 'rmsnorm'"),
        ("mpt", {"attn_config": {"clip_qkv": -1.0}}, "clip_qkv is -1.0, expected a number above 0"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("ernie4_5", {"use_bias": True}, r"config.json states use_bias True \(expected False\)"),
        ("ernie4_5", {"compression_ratio": 4.0}, "compression_ratio 4.0"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
    ],
)
def test_unsupported_options_are_refused(family, stated, text):
    with pytest.raises(ValueError, match=text):
        FAMILIES[family].read(stated)


def test_every_family_of_transformers_is_tried():
    native = {name for name, family in FAMILIES.items() if family.remote_code is None}
    assert native == tiny.TEXT_CONFIGS.keys() == {one.get("family", "llama") for one in VARIANTS.values()}


@pytest.mark.parametrize("name", tiny.TEXT_CONFIGS)
def test_absent_keys_have_the_defaults_of_transformers(name):
    theirs = tiny.TEXT_CONFIGS[name]()
    ours = FAMILIES[name].read({})
    assert ours == FAMILIES[name].read(theirs.to_dict())
    inner = 4 * theirs.d_model if name == "mpt" else theirs.intermediate_size  # MPT's class has no key for it
    assert (ours.vocab_size, ours.intermediate_size) == (theirs.vocab_size, inner)
    assert ours.max_position_embeddings == (theirs.max_seq_len if name == "mpt" else theirs.max_position_embeddings)
    assert (ours.hidden_size, ours.num_attention_heads) == (theirs.hidden_size, theirs.num_attention_heads)
    assert (ours.num_hidden_layers, ours.tie_word_embeddings) == (theirs.num_hidden_layers, theirs.tie_word_embeddings)
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert FAMILIES[name].eos_token_id == theirs.eos_token_id and FAMILIES[name].bos_token_id == theirs.bos_token_id


def test_hidden_activation_of_gemma_takes_precedence():
    # google/gemma-7b says "gelu" and "gelu_pytorch_tanh", and was trained with the latter.
    read = FAMILIES["gemma"].read
    assert read({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}).activation == "gelu_tanh"
    assert read({"hidden_act": "gelu"}).activation == "gelu"
    # GemmaConfig of transformers 5 turns "gelu" into "gelu_pytorch_tanh".
    assert read({"hidden_act": "gelu", "transformers_version": "5.24.0"}).activation == "gelu_tanh"


def test_options_that_a_family_cannot_express_are_refused(pair):
    language = dataclasses.replace(pair.ours.config.language, has_qkv_bias=True, has_out_bias=False, family="llama")
    with pytest.raises(ValueError, match="family 'llama' cannot have the options"):
        FAMILIES["llama"].write(language)
