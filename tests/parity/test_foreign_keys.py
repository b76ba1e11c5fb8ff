"""Each key of transformers' config.json is used, known to change nothing, or named in an error."""

from __future__ import annotations

import json
import time

import numpy as np
import paddle
import pytest
import reference_models as tiny
import transformers
from transformers import AutoConfig, CLIPConfig, GenerationConfig, SiglipConfig

from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.config_keys import GENERATION, HF
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.hf import read_vision
from paddlemix.checkpoints.layouts.tower import WHOLE_MODEL
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.foreign_json import check_keys
from paddlemix.models.language.families import FAMILIES
from paddlemix.models.vision.families import TOWER_FAMILIES
from paddlemix.tensor_files.stored import CheckpointError

TOLERANCE = 1e-4
THETA = 77.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the tiny LLaVA 1.5 and its folder."""
    model = tiny.hf_model(False, rope_theta=5000.0)
    return model, tiny.save_hf(model, tmp_path_factory.mktemp("keys") / "hf", False)


@pytest.fixture
def edit(saved, tmp_path):
    """Return a function that changes config.json in a copy of the folder: dotted keys, None removes a key."""

    def change(changes: dict, file: str = "config.json"):
        for path in saved[1].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        path = tmp_path / file
        values = json.loads(path.read_text()) if path.is_file() else {}
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = values
            for name in parents:
                place = place[name]
            place[last] = value
            if value is None:
                del place[last]
        path.write_text(json.dumps(values))
        return tmp_path

    return change


@pytest.mark.parametrize("family", tiny.TEXT_CONFIGS)
def test_every_key_that_transformers_has_for_a_decoder_is_known(family):
    FAMILIES[family].read(json.loads(json.dumps(tiny.TEXT_CONFIGS[family]().to_dict())))


def test_names_that_mpts_class_takes_besides_its_own_are_used():
    stated = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 99}
    theirs, ours = tiny.TEXT_CONFIGS["mpt"](**stated), FAMILIES["mpt"].read(stated)
    found = (ours.hidden_size, ours.num_attention_heads, ours.num_hidden_layers)
    assert found == (theirs.d_model, theirs.n_heads, theirs.n_layers) == (48, 4, 3)
    with pytest.raises(ValueError, match="d_model is 64, but hidden_size 48"):
        FAMILIES["mpt"].read({**stated, "d_model": 64})


@pytest.mark.parametrize("kind", tiny.TOWER_CONFIGS)
def test_every_key_that_transformers_has_for_a_tower_is_known(kind):
    TOWER_FAMILIES[kind].read(tiny.TOWER_CONFIGS[kind]().to_dict())


@pytest.mark.parametrize(
    ("make", "rules"),
    [
        (lambda: transformers.LlavaConfig(), HF),
        (lambda: transformers.LlavaNextConfig(), HF),
        (lambda: CLIPConfig(), WHOLE_MODEL),
        (lambda: SiglipConfig(), WHOLE_MODEL),
        (lambda: GenerationConfig(), GENERATION),
    ],
    ids=["llava", "llava_next", "clip", "siglip", "generation"],
)
def test_every_other_key_of_transformers_configs_is_known(make, rules):
    values = make().to_dict()
    check_keys(values, rules, "config.json")
    every = rules.used | rules.inert | rules.ignored | rules.fixed.keys()
    assert values.keys() <= every, values.keys() - every


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        ("config.json", {"layer_skip": 2}, r"config\.json states layer_skip 2, which this version does not know"),
        ("config.json", {"multimodal_projector_bias": False}, r"multimodal_projector_bias False \(expected True\)"),
        ("config.json", {"text_config.logit_softcapping": 30.0}, r"text_config in .* states logit_softcapping 30\.0"),
        ("config.json", {"text_config.is_encoder_decoder": True}, "is_encoder_decoder True"),
        ("config.json", {"text_config.suppress_tokens": [3]}, r"suppress_tokens \[3\]"),
        ("config.json", {"vision_config.num_channels": 4}, r"num_channels 4 \(expected 3\)"),
        ("config.json", {"vision_config.use_mean_pooling": True}, "use_mean_pooling True"),
        ("generation_config.json", {"suppress_tokens": [7]}, r"generation_config\.json states suppress_tokens \[7\]"),
        ("generation_config.json", {"stop_strings": ["x"]}, r"stop_strings \['x'\]"),
        ("generation_config.json", {"dance": "yes"}, "dance 'yes'"),
        ("generation_config.json", {"eos_token_id": "2"}, r"generation_config\.json: eos_token_id is '2'"),
        ("config.json", {"text_config.is_causal": False}, r"is_causal False \(expected True\)"),
    ],
)
def test_a_key_that_would_change_the_result_is_an_error_with_file_key_and_value(edit, file, changes, text):
    folder = edit(changes, file)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")
    assert any(part in " ".join(inspect(folder).problems) for part in changes[next(iter(changes))].__repr__().split())


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"layer_skip": None, "vision_feature_layer": [-2]}),
        ("generation_config.json", {"suppress_tokens": [], "stop_strings": []}),
        ("config.json", {"text_config.max_sequence_length": 16384}),
        ("config.json", {"use_cache": False, "_attn_implementation_autoset": True, "ignore_index": -100}),
        ("config.json", {"text_config.attention_dropout": 0.1, "text_config.pretraining_tp": 2}),
        ("config.json", {"text_config.layer_skip": False, "vision_config.dropout": 0.5}),
        ("generation_config.json", {"temperature": 0.6, "repetition_penalty": 1.05, "do_sample": True}),
    ],
)
def test_keys_that_change_nothing_are_ignored(edit, saved, file, changes):
    changes = {key: value for key, value in changes.items() if value is not None}
    assert read_config(edit(changes, file)) == read_config(saved[1])


def test_inspect_lists_suggestions_of_a_folder_that_are_not_used(edit):
    folder = edit(
        {"temperature": 0.6, "top_p": 1.0, "repetition_penalty": 1.05, "do_sample": True}, "generation_config.json"
    )
    (note,) = (note for note in inspect(folder).notes if "generation_config.json" in note)
    assert all(part in note for part in ("temperature 0.6", "repetition_penalty 1.05", "do_sample True"))
    assert "top_p" not in note


BAD_VALUES = [
    ({"text_config.hidden_size": "128"}, "hidden_size is '128', expected a whole number"),
    ({"text_config.rms_norm_eps": "x"}, "rms_norm_eps is 'x', expected a number"),
    ({"text_config.rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ({"text_config.num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"text_config.num_attention_heads": True}, "num_attention_heads is True"),
    ({"text_config.num_hidden_layers": 1.5}, "num_hidden_layers is 1.5"),
    (
        {"text_config.num_hidden_layers": 1000000},
        "num_hidden_layers is 1000000, expected a whole number from 1 to 4096",
    ),
    ({"text_config.vocab_size": -1}, "vocab_size is -1"),
    ({"text_config.max_position_embeddings": []}, r"max_position_embeddings is \[\]"),
    ({"text_config.tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
    ({"text_config.attention_bias": "no"}, "attention_bias is 'no'"),
    ({"text_config.hidden_act": ["silu"]}, "hidden_act is"),
    ({"text_config.head_dim": 7}, "head_dim 7 is odd"),
    ({"text_config": [1]}, r"text_config is \[1\], expected an object"),
    ({"vision_config.layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
    ({"vision_config.patch_size": 0}, "patch_size is 0"),
    ({"vision_config.num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
    ({"vision_config.image_size": 10**9}, "image_size is 1000000000"),
    ({"vision_feature_select_strategy": "all"}, "vision_feature_select_strategy 'all', expected 'default' or 'full'"),
    ({"dtype": "x"}, "dtype 'x', expected one of float32"),
    ({"tie_word_embeddings": 3}, "tie_word_embeddings is 3"),
    (
        {"architectures": "LlavaForConditionalGeneration"},
        "architectures is 'LlavaForConditionalGeneration', expected a",
    ),
    ({"transformers_version": 5.0}, "transformers_version is 5.0"),
    ({"paddlemix": [1]}, r"paddlemix is \[1\], expected an object"),
    ({"image_token_index": 98, "image_token_id": 5}, "expected one id of `<image>`"),
    ({"vision_config.layer_norm_eps": 0.1}, "layer_norm_eps is 0.1"),
    ({"image_token_index": "<image>"}, "image_token_index is '<image>'"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_VALUES)
def test_a_wrong_value_is_one_line_at_once_in_loading_and_in_inspect(edit, changes, text):
    if "dtype" in changes:
        changes = {"dtype": "x", "torch_dtype": "x"}
    folder, start = edit(changes), time.process_time()
    with pytest.raises(CheckpointError, match=text) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)
    assert inspect(folder).problems
    assert time.process_time() - start < 5


def rope_of(folder):
    """Return the rotary positions that are read."""
    language = read_config(folder).language
    return language.rope_theta, language.rope_scaling


def as_version_4(text: dict, **changes) -> dict:
    """Return a text_config with transformers 4's keys for rotary positions."""
    kept = {key: value for key, value in text.items() if key not in ("rope_parameters", "rope_theta", "rope_scaling")}
    return {**kept, **changes}


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "scaling", [None, LLAMA_3, {"rope_type": "linear", "factor": 4.0}], ids=["plain", "llama3", "linear"]
)
@pytest.mark.parametrize("is_by_layer_type", [False, True])
def test_rope_parameters_equal_rope_theta_with_rope_scaling(edit, saved, scaling, is_by_layer_type):
    text = json.loads((saved[1] / "config.json").read_text())["text_config"]
    inside = {"rope_theta": THETA, **(scaling or {"rope_type": "default"})}
    stated = {"full_attention": inside, "sliding_attention": dict(inside)} if is_by_layer_type else inside
    old = rope_of(edit({"text_config": as_version_4(text, rope_theta=THETA, rope_scaling=scaling)}))
    assert rope_of(edit({"text_config": as_version_4(text, rope_parameters=stated)})) == old
    assert old[0] == THETA and (old[1] is None) == (scaling is None)


def test_rope_parameters_give_transformers_logits(edit, saved):
    """The saved folder's own: rope_parameters in version 5, rope_theta in 4."""
    text = json.loads((saved[1] / "config.json").read_text())["text_config"]
    theta = text["rope_parameters"]["rope_theta"] if tiny.IS_VERSION_5 else text["rope_theta"]
    assert theta == 5000.0
    folder = edit({"text_config": as_version_4(text, rope_parameters={"rope_theta": theta, "rope_type": "default"})})
    ours = load_model(folder, device="cpu")
    batch = tiny.make_batch(np.random.default_rng(0), [[40, (30, 20), 9]], ours.config.image)
    with paddle.no_grad():
        found = ours(batch).numpy()
    assert np.abs(found - tiny.hf_logits(saved[0], batch, False)).max() < TOLERANCE


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters of kind 'yarn' is not supported"),
        ({"rope_parameters": {"rope_theta": 9.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1.0"),
        (
            {"rope_parameters": {"rope_theta": 9.0}, "rope_theta": 8.0},
            "rope_theta is 8.0, but rope_parameters says 9.0",
        ),
        (
            {
                "rope_parameters": {"rope_type": "linear", "factor": 2.0},
                "rope_scaling": {"type": "linear", "factor": 3.0},
            },
            r"contradict each other: factor \(3.0 and 2.0\)",
        ),
        ({"rope_parameters": {"rope_theta": 9.0, "mrope_section": [1, 2]}}, r"mrope_section \[1, 2\]"),
        ({"rope_parameters": {"rope_theta": 9.0, "factor": 4.0}}, "kind 'default' states factor 4.0"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}}, "beta_fast 32"),
        ({"rope_parameters": {"rope_theta": "9"}}, "rope_theta is '9'"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], expected an object"),
        ({"rope_parameters": {"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}}}, "differs from one type of layers"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "expected 3 layers of"),
        (
            {
                "rope_scaling": {
                    "rope_type": "longrope",
                    "factor": 2.0,
                    "short_factor": [1.1] * 4,
                    "long_factor": [1.5] * 4,
                    "original_max_position_embeddings": 16,
                },
                "transformers_version": "4.55.4",
            },
            "original_max_position_embeddings 16 in it",
        ),
    ],
)
def test_rotary_positions_that_are_not_supported_are_refused_by_name(edit, saved, changes, text):
    stated = json.loads((saved[1] / "config.json").read_text())["text_config"]
    folder = edit({"text_config": as_version_4(stated, **changes)})
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("is_next", [False, True])
@pytest.mark.parametrize(("top", "text"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_head_is_tied_where_the_library_that_wrote_the_folder_ties_it(tmp_path, is_next, top, text):
    model = tiny.hf_model(is_next, tie_word_embeddings=text)
    model.config.tie_word_embeddings = top
    tiny.save_hf(model, tmp_path, is_next)
    kind = transformers.LlavaNextForConditionalGeneration if is_next else transformers.LlavaForConditionalGeneration
    theirs = kind.from_pretrained(tmp_path)
    is_tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    if top and not text and not is_tied and tiny.IS_VERSION_5:  # the file ties a head that it stores with other values
        with pytest.raises(CheckpointError, match="tie_word_embeddings"):
            load_model(tmp_path, device="cpu")
    else:
        assert read_config(tmp_path).language.tie_word_embeddings == is_tied


def test_a_vision_config_that_is_not_there_is_the_reference_librarys(tmp_path):
    expected = transformers.LlavaConfig().vision_config
    found = read_vision(Folder(tmp_path), {})
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size"):
        assert getattr(found, name) == getattr(expected, name)
    assert (found.patch_size, found.hidden_act) == (expected.patch_size, expected.hidden_act)


def test_saved_configs_of_the_installed_version_are_read_by_its_own_classes(saved):
    """The values that the tests above read are those of AutoConfig, so that the tests use the real format."""
    config = AutoConfig.from_pretrained(saved[1])
    language = read_config(saved[1]).language
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (
        language.hidden_size,
        language.num_hidden_layers,
    )
