"""The table of cuts covers every tensor of a decoder, and the parts are what the layers of a card take."""

from __future__ import annotations

import dataclasses

import pytest

from paddlemix.checkpoints.layouts.shapes import parameter_shapes
from paddlemix.checkpoints.load import build_model
from paddlemix.models.config import LanguageConfig, LlavaConfig
from paddlemix.models.parallel.cards import Cards
from paddlemix.models.parallel.cuts import axis_of, check_degree, config_of_part

SIZES = {"vocab_size": 301, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
LANGUAGE = LanguageConfig(**SIZES, num_attention_heads=8, num_key_value_heads=4, has_qkv_bias=True, has_out_bias=True)
CONFIG = LlavaConfig(language=LANGUAGE)


@pytest.mark.parametrize("language", [LANGUAGE, dataclasses.replace(LANGUAGE, tie_word_embeddings=True)])
def test_each_layer_of_a_card_has_its_part_of_the_whole_and_all_parts_are_the_whole(language):
    config = LlavaConfig(language=language)
    cards = [Cards(rank, 4, None) for rank in range(4)]
    models = [build_model(config, "float32", is_empty=True, cards=one) for one in cards]
    parts = [{name: tuple(one.shape) for name, one in model.named_parameters()} for model in models]
    for name, shape in parameter_shapes(config).items():
        axis = axis_of(name)
        for number, size in enumerate(shape):
            sizes = [part[name][number] for part in parts]
            assert sum(sizes) == size if number == axis else set(sizes) == {size}, name


def test_only_the_decoder_is_cut_and_its_norms_are_whole():
    cut = {name for name in parameter_shapes(CONFIG) if axis_of(name) is not None}
    whole = set(parameter_shapes(CONFIG)) - cut
    assert all(name.startswith("language_model.") for name in cut)
    decoder = {name.rpartition("layers.")[2] for name in whole if name.startswith("language_model.")}
    norms = {f"{number}.{name}_layernorm.weight" for number in range(2) for name in ("input", "post_attention")}
    assert decoder == {"language_model.norm.weight", *norms, "0.self_attn.o_proj.bias", "1.self_attn.o_proj.bias"}


@pytest.mark.parametrize(
    ("degree", "text"),
    [(3, "num_attention_heads is 8, which cannot be cut in 3"), (8, "num_key_value_heads is 4, .* expected 2 or 4")],
)
def test_a_degree_that_does_not_divide_the_heads_is_refused_with_those_that_do(degree, text):
    with pytest.raises(ValueError, match=text):
        check_degree(CONFIG, degree)


def test_the_sizes_of_an_estimate_are_those_of_the_largest_part():
    shapes = parameter_shapes(config_of_part(CONFIG, 4))
    assert shapes["language_model.embed_tokens.weight"] == (76, 64)
    assert shapes["language_model.layers.1.self_attn.k_proj.weight"] == (64, 8)
    assert shapes["language_model.layers.1.mlp.down_proj.weight"] == (24, 64)
