"""Adapters of peft over every kind of layer, read with their base: the answers are peft's, or an error says why not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import paddle
import peft
import peft_folders
import pytest
import reference_models as tiny
import torch
from safetensors.torch import load_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import open_source, read_config
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.tensor_files.stored import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QV = ["q_proj", "v_proj"]
ALL = "all-linear"
EMBEDDING = "base_model.model.model.language_model.embed_tokens.weight"


@pytest.fixture(scope="session")
def bases(make_reference, tmp_path_factory, v1_5, v1_6, phi):
    """Return a function that returns a base by its name, made once."""
    made = {"1.5": v1_5, "1.6": v1_6, "phi3": phi}
    options = {
        "tied": {"tie_word_embeddings": True},
        "qwen2": {"family": "qwen2"},
        "gemma": {"family": "gemma"},
    }

    def base(name: str):
        if name not in made:
            made[name] = make_reference(tmp_path_factory.mktemp(name), False, **options[name])
        return made[name]

    return base


def check_adapter(folder, base, is_next: bool = False, **options) -> None:
    expected = peft_folders.logits_of(folder, base.folder, base.batch, is_next)
    with paddle.no_grad():
        logits = load_model(folder, device="cpu", **options)(base.batch).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.abs(expected - base.logits).max() > 0.1


READ = {
    "list": ("1.5", {"target_modules": QV}),
    "regex": ("1.5", {"target_modules": r".*language_model.*\.(o_proj|up_proj)"}),
    "all-linear": ("1.5", {"target_modules": ALL, "exclude_modules": r".*layers\.1\..*"}),
    "all-linear-1.6": ("1.6", {"target_modules": ALL, "modules_to_save": ["multi_modal_projector"]}),
    "one-layer": ("1.5", {"target_modules": QV, "layers_to_transform": [1]}),
    "patterns": (
        "1.5",
        {
            "target_modules": [*QV, "k_proj"],
            "rank_pattern": {"v_proj": 2, "^model.language_model.layers.1.self_attn.q_proj": 6},
            "alpha_pattern": {r".*layers\.0.*k_proj": 11},
        },
    ),
    "bias": ("1.5", {"target_modules": ALL, "bias": "all"}),
    "bias-of-qwen2": ("qwen2", {"target_modules": QV, "bias": "all", "use_dora": True}),
    "lora-bias": ("qwen2", {"target_modules": QV, "lora_bias": True, "use_rslora": True}),
    "dora": ("1.5", {"target_modules": ALL, "use_dora": True, "use_rslora": True}),
    "dora-embedding": ("1.5", {"target_modules": [*QV, "embed_tokens", "position_embedding"], "use_dora": True}),
    "dora-convolution": ("1.5", {"target_modules": ["patch_embedding"], "use_dora": True}),
    "convolution": ("1.5", {"target_modules": ["patch_embedding", "q_proj"]}),
    "dora-fused": ("phi3", {"target_modules": ALL, "use_dora": True}),
    "norms": ("1.5", {"target_modules": QV, "modules_to_save": ["input_layernorm", "norm"]}),
    "tower": ("1.5", {"target_modules": r".*language_model.*q_proj", "modules_to_save": ["vision_tower"]}),
    "head": ("1.5", {"target_modules": [*QV, "lm_head"], "modules_to_save": ["embed_tokens"]}),
    "tokens": ("1.5", {"target_modules": QV, "trainable_token_indices": [90, 5, 7]}),
    "orthogonal": ("1.5", {"target_modules": QV, "init_lora_weights": "orthogonal"}),
}


@pytest.mark.parametrize(("name", "settings"), READ.values(), ids=READ)
def test_adapter_of_peft_gives_the_answers_of_peft(bases, tmp_path, name, settings):
    base = bases(name)
    folder = peft_folders.train(tmp_path / "x", base.folder, name == "1.6", **settings)
    check_adapter(folder, base, name == "1.6")


# What an adapter changes of a model whose output layer is its embeddings, and if both are still one afterwards.
TIED = {
    "lora-on-the-head": ({"target_modules": [*QV, "lm_head"]}, False),
    "lora-on-the-embeddings": ({"target_modules": [*QV, "embed_tokens"]}, False),
    "lora-on-both": ({"target_modules": [*QV, "embed_tokens", "lm_head"]}, False),
    "dora-on-the-head": ({"target_modules": [*QV, "lm_head"], "use_dora": True}, False),
    "new-head": ({"target_modules": QV, "modules_to_save": ["lm_head"]}, False),
    "new-embeddings": ({"target_modules": QV, "modules_to_save": ["embed_tokens"]}, False),
    "new-both": ({"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "tokens": ({"target_modules": QV, "trainable_token_indices": [5, 7]}, True),
    "neither": ({"target_modules": QV}, True),
}


@pytest.mark.parametrize(("settings", "is_tied"), TIED.values(), ids=TIED)
def test_adapter_over_a_tied_model_unties_the_layers_that_peft_unties(bases, tmp_path, settings, is_tied):
    folder = peft_folders.train(tmp_path / "x", bases("tied").folder, **settings)
    check_adapter(folder, bases("tied"))
    assert read_config(folder).language.tie_word_embeddings is is_tied


def test_untied_layers_stay_apart_in_the_result(bases, tmp_path):
    base = bases("gemma")
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=[*QV, "lm_head"])
    expected = peft_folders.logits_of(folder, base.folder, base.batch)
    for layout in ("hf", "official"):
        convert(folder, tmp_path / layout, layout, checks=[compare_tensors])
        with paddle.no_grad():
            logits = load_model(tmp_path / layout, device="cpu")(base.batch).numpy()
        np.testing.assert_allclose(logits[..., : expected.shape[-1]], expected, atol=2e-4)


def test_weight_tying_that_is_ensured_keeps_the_tie(bases, tmp_path):
    base = bases("tied")
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=QV, modules_to_save=["embed_tokens"])
    peft_folders.change_config(folder, ensure_weight_tying=True)
    assert read_config(folder).language.tie_word_embeddings
    model = load_model(folder, device="cpu")
    saved = load_file(folder / peft_folders.WEIGHTS)[EMBEDDING]
    np.testing.assert_array_equal(model.language_model.embed_tokens.weight.numpy(), saved.numpy())


def grown(tensors):
    """Return an adapter's tensors for a vocabulary with three more rows."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if "embed_tokens" in name and "_B" not in name:
            axis = 1 if name.endswith("_A") else 0
            shape = (3, tensor.shape[1]) if axis == 0 else (tensor.shape[0], 3)
            found[name] = torch.cat([tensor, torch.full(shape, 0.3)], axis)
    return found


@pytest.mark.parametrize("settings", [{"modules_to_save": ["embed_tokens"]}, {}], ids=["saved", "lora"])
def test_vocabulary_that_has_grown_and_is_tied(bases, tmp_path, settings):
    base, targets = bases("tied"), QV if settings else [*QV, "embed_tokens"]
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=targets, **settings)
    peft_folders.change_tensors(folder, grown)
    model = peft_folders.load_base(base.folder, False)
    model.resize_token_embeddings(102)
    if settings:  # the tie that the file's size implies
        model.lm_head.weight.data = load_file(folder / peft_folders.WEIGHTS)[EMBEDDING]
    wrapped = peft.PeftModel.from_pretrained(model, folder).eval()
    with paddle.no_grad():
        logits = load_model(folder, device="cpu")(base.batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(wrapped, base.batch, False), atol=1e-4)


# How the same layers are called: by transformers before 4.52, by 5.4 and 5.5, by 5, by LLaVA's own code, by a decoder.
SPELLINGS = {
    "4.51": {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower."},
    "5.4": {"model.language_model.": "model.language_model.model."},
    "5.24": {"vision_tower.vision_model.": "vision_tower."},
    "5.24-bare": {"model.vision_tower.vision_model.": "vision_tower."},
    "official": {"model.language_model.": "model.", "model.vision_tower.": "model.vision_tower.vision_tower."},
    "named-adapter": {".weight": ".default.weight"},
    "without-prefix": {"base_model.model.": ""},
}


@pytest.fixture(scope="session")
def paddle_base(v1_5, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paddle") / "base"
    convert(v1_5.folder, folder, "paddle")
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_layers_are_known_by_every_name_that_they_had(v1_5, paddle_base, tmp_path, spelling):
    targets = r".*(language_model.*|vision_tower.*)(q_proj|fc1|up_proj)"
    folder = peft_folders.train(tmp_path / "x", v1_5.folder, target_modules=targets)
    expected = peft_folders.logits_of(folder, v1_5.folder, v1_5.batch)

    def renamed(tensors):
        for old, new in spelling.items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        return tensors

    peft_folders.change_tensors(folder, renamed)
    with paddle.no_grad():
        logits = load_model(folder, base=paddle_base, device="cpu")(v1_5.batch).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["paddle", "official", "paddlemix", "xtuner"])
def test_base_may_be_in_any_layout(bases, tmp_path, layout):
    """The output layer has one name in torch's folders and in PaddleMIX's, but is transposed there."""
    base = bases("tied")
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=[*QV, "lm_head", "fc1"], use_dora=True)
    expected = peft_folders.logits_of(folder, base.folder, base.batch)
    convert(base.folder, tmp_path / "base", layout)
    with paddle.no_grad():
        logits = load_model(folder, base=tmp_path / "base", device="cpu")(base.batch).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_fused_matrices_of_a_decoder_alone_are_known(phi, tmp_path):
    folder = peft_folders.train(tmp_path / "x", phi.folder, target_modules=r".*language_model.*(qkv_proj|down_proj)")
    expected = peft_folders.logits_of(folder, phi.folder, phi.batch)
    peft_folders.change_tensors(
        folder, lambda tensors: {name.replace("language_model.", ""): tensor for name, tensor in tensors.items()}
    )
    with paddle.no_grad():
        np.testing.assert_allclose(load_model(folder, device="cpu")(phi.batch).numpy(), expected, atol=1e-4)


def test_head_of_siglip_is_left_out_and_reported(make_reference, tmp_path):
    vision = {"kind": "siglip", "num_attention_heads": 1}
    base = make_siglip(make_reference, tmp_path, vision)
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=ALL, bias="all")
    check_adapter(folder, base)
    dropped = open_source(folder).dropped
    assert any("head.mlp.fc1" in name for name in dropped) and all("vision_model.head." in name for name in dropped)


def make_siglip(make_reference, tmp_path, vision):
    """Return a LLaVA over SigLIP that uses all features of the tower."""
    model = tiny.hf_model(False, vision=vision, strategy="full")
    folder = tmp_path / "siglip"
    tiny.save_hf(model, folder, False)
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 5]], read_config(folder).image)
    plain = make_reference(tmp_path / "plain", False)
    return dataclasses.replace(
        plain, model=model, folder=folder, batch=batch, logits=tiny.hf_logits(model, batch, False)
    )


REFUSED = {
    "qalora": ({"use_qalora": True}, "use_qalora is set, which cannot be merged"),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is set"),
    "alora": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is set.*a part of the tokens"),
    "arrow": ({"arrow_config": {"top_k": 3}}, "arrow_config is set"),
    "kasa": ({"kasa_config": {"beta": 1e-4}}, "kasa_config is set.*changes the base model"),
    "monteclora": ({"monteclora_config": {"num_samples": 8}}, "monteclora_config is set"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config is set"),
    "target-parameters": ({"target_parameters": ["q_proj.weight"]}, "target_parameters is set"),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
    "start-of-no-kind": ({"init_lora_weights": 3}, "init_lora_weights is 3"),
    "vera": ({"peft_type": "VERA"}, r"adapters of type 'VERA' are not read.*peft_type"),
    "new-key": ({"use_tomorrows_lora": True}, "states use_tomorrows_lora True, which this version does not know"),
    "nan": ({"lora_alpha": float("nan")}, "has lora_alpha nan"),
    "infinite": ({"lora_alpha": float("inf")}, "has lora_alpha inf"),
    "negative": ({"lora_alpha": -8}, "has lora_alpha -8 for .*, expected a number above 0"),
    "fraction": ({"r": 4.5}, "has r 4.5"),
    "true": ({"lora_alpha": True}, "has lora_alpha True"),
    "pattern-value": ({"alpha_pattern": {"q_proj": "3"}}, "has lora_alpha '3' for .*q_proj"),
    "pattern-kind": ({"rank_pattern": ["q_proj"]}, "rank_pattern is .*expected an object"),
    "pattern": ({"alpha_pattern": {"(q": 3}}, r"'\(q' of alpha_pattern is not a pattern"),
    "endless-pattern": ({"rank_pattern": {"(.*.)*x": 3}}, "repeats a repetition"),
    "flag": ({"use_rslora": "yes"}, "use_rslora is 'yes', expected true or false"),
    "bias": ({"bias": "some"}, "bias is 'some', expected 'none' or 'all' or 'lora_only'"),
    "saved": ({"modules_to_save": ["lm_head"]}, r"modules_to_save lm_head, but adapter_model\.safetensors holds no"),
    "tokens": ({"trainable_token_indices": [1]}, "states trainable_token_indices, but .* holds no trained tokens"),
}


@pytest.fixture(scope="session")
def plain(v1_5, tmp_path_factory):
    return peft_folders.train(tmp_path_factory.mktemp("plain") / "x", v1_5.folder, target_modules=QV)


@pytest.mark.parametrize(("changes", "text"), REFUSED.values(), ids=REFUSED)
def test_key_that_cannot_be_honored_is_named(plain, tmp_path, changes, text):
    folder = copied(plain, tmp_path / "x")
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json.*{text}"):
        load_model(peft_folders.change_config(folder, **changes), device="cpu")


HARMLESS = {
    "training": {"lora_dropout": 0.3, "lora_dtype": None, "lorap_emb_lr": 1e-6, "peft_version": "0.99.0"},
    "layers": {"target_modules": ALL, "exclude_modules": ["k_proj"], "layers_to_transform": []},
    "start": {"init_lora_weights": "EVA", "eva_config": {"rho": 2.0}, "loftq_config": {"loftq_bits": 4}},
    "silent": {"use_bdlora": None, "megatron_config": {}, "a_key_of_tomorrow": None, "fan_in_fan_out": True},
}


@pytest.mark.parametrize("changes", HARMLESS.values(), ids=HARMLESS)
def test_key_that_changes_nothing_is_read_over(v1_5, plain, tmp_path, changes):
    folder = peft_folders.change_config(copied(plain, tmp_path / "x"), **changes)
    expected = peft_folders.logits_of(plain, v1_5.folder, v1_5.batch)
    with paddle.no_grad():
        np.testing.assert_allclose(load_model(folder, device="cpu")(v1_5.batch).numpy(), expected, atol=1e-4)


def copied(folder, place):
    place.mkdir()
    for name in (peft_folders.CONFIG, peft_folders.WEIGHTS):
        (place / name).write_bytes((folder / name).read_bytes())
    return place


def test_biases_that_were_trained_but_not_saved_are_missed(bases, tmp_path):
    """peft 0.17 looks for a bias beside the layer that wraps it, finds none, and saves none."""
    base = bases("qwen2")
    folder = peft_folders.train(tmp_path / "x", base.folder, target_modules=QV, bias="lora_only")
    assert not any("bias" in name for name in load_file(folder / peft_folders.WEIGHTS))
    with pytest.raises(CheckpointError, match=r"states bias 'lora_only'.*q_proj\.bias.*are not in the file"):
        load_model(folder, device="cpu")
    check_adapter(peft_folders.change_config(folder, bias="none"), base)


def as_int8(tensors):
    return {name: tensor.to(torch.int8) for name, tensor in tensors.items()}


def with_both_names(tensors):
    old = {name.replace("model.language_model.", "language_model.model."): one + 1 for name, one in tensors.items()}
    return {**tensors, **old}


def test_tensors_that_mean_something_else_are_named(plain, tmp_path):
    for number, (change, text) in enumerate(
        ((as_int8, r"are not floats: .*lora_A\.weight \(int8\)"), (with_both_names, "one tensor under two names"))
    ):
        folder = peft_folders.change_tensors(copied(plain, tmp_path / str(number)), change)
        with pytest.raises(CheckpointError, match=text):
            load_model(folder, device="cpu")


def test_rows_of_tokens_need_their_numbers(v1_5, tmp_path):
    folder = peft_folders.train(tmp_path / "x", v1_5.folder, target_modules=QV, trainable_token_indices=[5, 7])
    for value, text in (([5], r"\[5\].*expected a list of 2"), (None, "None"), ([5, -1], "-1"), ({"wte": [5, 7]}, "")):
        peft_folders.change_config(folder, trainable_token_indices=value)
        with pytest.raises(CheckpointError, match=rf"trainable_token_indices .*{text}"):
            load_model(folder, device="cpu")
    peft_folders.change_config(folder, trainable_token_indices={"embed_tokens": [5, 700]})
    with pytest.raises(CheckpointError, match=r"do not fit the base: model\.language_model\.embed_tokens"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("module", ["multi_modal_projector", "model.multi_modal_projector.linear_1"])
def test_half_of_a_module_that_trained_whole_is_refused(v1_5, tmp_path, module):
    folder = peft_folders.train(tmp_path / "x", v1_5.folder, target_modules=QV, modules_to_save=[module])
    check_adapter(folder, v1_5)
    peft_folders.change_tensors(
        folder, lambda tensors: {name: one for name, one in tensors.items() if not name.endswith("linear_1.bias")}
    )
    with pytest.raises(CheckpointError, match=rf"lacks projector\.0\.bias of {module}, which adapter_config"):
        load_model(folder, device="cpu")


def test_folder_with_two_adapters_is_refused(plain, tmp_path):
    folder = copied(plain, tmp_path / "x")
    (folder / "lora_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"two adapters \(lora_config\.json and adapter_config\.json\)"):
        load_model(folder, device="cpu")


def test_revision_of_the_base_is_requested_from_the_hub(plain, tmp_path, monkeypatch):
    asked = []

    def resolve(name, *, revision=None):
        asked.append((name, revision))
        raise OSError("not here")

    monkeypatch.setattr("paddlemix.hub.resolve.resolve", resolve)
    folder = copied(plain, tmp_path / "x")
    for revision in ("v1", "main", None):
        peft_folders.change_config(folder, base_model_name_or_path="owner/llava", revision=revision)
        with pytest.raises(CheckpointError, match="base model owner/llava, which does not exist"):
            read_config(folder)
    assert asked == [("owner/llava", "v1"), ("owner/llava", None), ("owner/llava", None)]


def test_dora_is_merged_before_weights_are_quantized(v1_5, tmp_path):
    folder = peft_folders.train(tmp_path / "x", v1_5.folder, target_modules=ALL, use_dora=True)
    convert(folder, tmp_path / "merged", "paddle")
    with paddle.no_grad():
        first, second = (
            load_model(path, device="cpu", quantization="int8")(v1_5.batch).numpy()
            for path in (folder, tmp_path / "merged")
        )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_config_that_is_no_object_is_one_line(plain, tmp_path):
    folder = copied(plain, tmp_path / "x")
    (folder / peft_folders.CONFIG).write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj"]},
        {"exclude_modules": ["v_proj"]},
        {"exclude_modules": r".*layers\.1\..*"},
        {"layers_to_transform": [0]},
    ],
    ids=lambda value: "-".join(value),
)
def test_settings_that_leave_out_layers_of_the_weights_are_refused_by_their_key(v1_5, tmp_path, changes):
    """peft itself leaves the factors of these layers aside, so that its model is another one."""
    folder = peft_folders.train(tmp_path / "x", v1_5.folder, target_modules=["q_proj", "v_proj"])
    before = peft_folders.logits_of(folder, v1_5.folder, v1_5.batch)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert np.abs(peft_folders.logits_of(folder, v1_5.folder, v1_5.batch) - before).max() > 1e-2
    with pytest.raises(CheckpointError, match=f"leaves out .* layers that the weights have .*{next(iter(changes))}"):
        load_model(folder, base=v1_5.folder, device="cpu")
