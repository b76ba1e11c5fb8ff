"""The choice of trainable parameters by PaddleMIX's patterns and ours."""

from __future__ import annotations

import pytest
import tiny_folder

from paddlemix.train.freeze import freeze, lora_targets, names_of, report

# As in PaddleMIX's pretrain.json and lora_sft_argument.json.
PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE = ["*llama*", "*lm_head*"], ["*llama.mm_projector*"]
LORA_PATTERNS = [
    *(f"llama.layer.*{name}_proj.*" for name in "qkvo"),
    *(f"llama.layer.*{name}_proj.*" for name in ("gate", "up", "down")),
]
DECODER_LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
DECODER_LINEARS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.fixture(params=["pad", "anyres"])
def model(request):
    return tiny_folder.load(request.param)[0]


@pytest.fixture
def pad_model():
    return tiny_folder.load("pad")[0]


def trained(model):
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def starting_with(model, *parts):
    return {name for name, _ in model.named_parameters() if name.startswith(parts)}


def test_without_patterns_everything_but_the_tower_trains(model):
    freeze(model)
    assert trained(model) == starting_with(model, "language_model.", "projector.", "image_newline")


def test_paddlemix_pretraining_patterns_leave_the_projector(model):
    freeze(model, PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE)
    names = {"projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"}
    assert trained(model) == names


def test_patterns_match_our_names_too(model):
    freeze(model, ["language_model.*", "image_newline"])
    assert trained(model) == starting_with(model, "projector.")
    freeze(model, ["*"], ["projector.*"])
    assert trained(model) == starting_with(model, "projector.")


@pytest.mark.parametrize("is_frozen_before", [False, True])
def test_parameter_that_matches_both_or_none_stays_as_it_was(is_frozen_before, pad_model):
    name = "vision_tower.pre_norm.weight" if is_frozen_before else "language_model.norm.weight"
    parameter = dict(pad_model.named_parameters())[name]
    for patterns in ((["*norm*"], ["*norm*"]), (["absent"], ["missing"]), (None, None)):
        freeze(pad_model, *patterns)
        assert parameter.stop_gradient == is_frozen_before


def test_exclude_alone_trains_parameters_that_are_frozen_otherwise(pad_model):
    freeze(pad_model, None, ["*vision_tower*post_norm*", "*ln_pre.weight"])
    assert trained(pad_model) & starting_with(pad_model, "vision_tower.") == {
        "vision_tower.post_norm.weight",
        "vision_tower.post_norm.bias",
        "vision_tower.pre_norm.weight",
    }


def test_the_last_call_alone_decides(pad_model):
    freeze(pad_model, PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE)
    freeze(pad_model)
    assert "language_model.norm.weight" in trained(pad_model)


def test_unfrozen_tower_trains_up_to_the_selected_features(model):
    freeze(model, PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE, is_tower_trained=True)
    unused = starting_with(model, "vision_tower.layers.2.", "vision_tower.post_norm.")  # after the selected features
    assert len(unused) == 18
    tower = starting_with(model, "vision_tower.")
    assert trained(model) == (tower - unused) | starting_with(model, "projector.")


def test_frozen_tower_is_run_without_gradients_and_an_unfrozen_one_with(pad_model):
    freeze(pad_model)
    assert pad_model.vision_tower.is_frozen
    freeze(pad_model, is_tower_trained=True)
    assert not pad_model.vision_tower.is_frozen


def test_projector_can_be_frozen(model):
    freeze(model, is_projector_frozen=True)
    assert trained(model) == starting_with(model, "language_model.", "image_newline")


def test_every_parameter_has_a_paddlemix_name(model):
    for name, _ in model.named_parameters():
        ours, theirs = names_of(name, model.config)
        assert ours == name and theirs.startswith(("llama.", "lm_head."))


@pytest.mark.parametrize(
    "patterns",
    [LORA_PATTERNS, [pattern.replace("llama.layer.", "language_model.layer.") for pattern in LORA_PATTERNS]],
    ids=["paddlemix", "ours"],
)
def test_seven_patterns_match_seven_layers_a_block(patterns, model):
    expected = [f"language_model.layers.{number}.{name}" for number in (0, 1) for name in DECODER_LINEARS]
    assert sorted(lora_targets(model, patterns)) == sorted(expected)


def test_one_pattern_matches_its_layers_only(pad_model):
    assert lora_targets(pad_model, ["llama.layer.*v_proj.*"]) == [
        f"language_model.layers.{number}.self_attn.v_proj" for number in (0, 1)
    ]
    assert lora_targets(pad_model, [r"llama\.mm_projector\.2"]) == ["projector.2"]


def test_pattern_must_match_the_whole_name(pad_model):
    with pytest.raises(ValueError, match="matches no layer"):
        lora_targets(pad_model, ["q_proj"])
    assert len(lora_targets(pad_model, [".*q_proj"])) == 5  # two in the decoder, three in the tower


def test_without_patterns_every_projection_of_the_decoder_gets_an_adapter(pad_model):
    assert lora_targets(pad_model, None) == lora_targets(pad_model, ["llama.layer.*_proj"])


@pytest.mark.parametrize(
    "patterns, message",
    [
        ([], "lora_target_modules is empty"),
        (["llama.block.*"], "matches no layer; there are .*q_proj"),
        (["llama.(q_proj"], "broken regular expression"),
    ],
)
def test_patterns_without_a_layer_raise(patterns, message, pad_model):
    with pytest.raises(ValueError, match=message):
        lora_targets(pad_model, patterns)


def test_report_counts_trained_parameters(pad_model):
    freeze(pad_model, PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE)
    lines = [line.split() for line in report(pad_model.named_parameters()).splitlines()]
    projector = 32 * 48 + 48 + 48 * 48 + 48  # two linear layers with biases
    total = sum(parameter.size for parameter in pad_model.parameters())
    table = {name: (trained, number) for name, trained, number in lines[1:]}
    assert table["projector"] == (f"{projector:,}",) * 2
    assert table["vision_tower"][0] == table["language_model"][0] == "0"
    assert table["total"] == (f"{projector:,}", f"{total:,}")
    assert list(table) == ["vision_tower", "projector", "language_model", "total"]


def test_pattern_that_matches_nothing_is_reported(pad_model, caplog):
    freeze(pad_model, PRETRAIN_INCLUDE, PRETRAIN_EXCLUDE)
    lora_targets(pad_model, LORA_PATTERNS)
    assert caplog.messages == []
    freeze(pad_model, ["*llama*", "*lamma*"], ["*projektor*"])
    lora_targets(pad_model, ["llama.layer.*q_proj.*", ".*q_prjo.*"])
    expected = ["no parameter matches '*lamma*', '*projektor*'", "no layer matches '.*q_prjo.*'"]
    assert [message.partition(": ")[2] for message in caplog.messages] == expected
