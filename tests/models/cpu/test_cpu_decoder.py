"""The decoder for CPUs computes what the plain one does, and what a pass over the whole sequence does."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix.models.config import LanguageConfig
from paddlemix.models.cpu import projection
from paddlemix.models.cpu.decoder import CpuDecoder, supports
from paddlemix.models.fast_decoder import decoder_for
from paddlemix.models.kv_cache import KVCache, Run
from paddlemix.models.language.cached_decoder import CachedDecoder
from paddlemix.models.language.decoder import LanguageModel
from paddlemix.models.layers import initialize
from paddlemix.models.quantized import quantize_layers, quantized_layers
from paddlemix.ops.quantize import quantize
from paddlemix.ops.row_products import has_kernel

WIDTH, CAPACITY = 64, 420
SIZES = {"vocab_size": 300, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
LONGROPE = {"kind": "longrope", "factor": 2.0, "short_factor": (1.0,) * 8, "long_factor": (2.0,) * 8}
LONGROPE["original_max_position_embeddings"] = 70
FAMILIES = {
    "grouped": {},
    "one key head a query": {"num_key_value_heads": 4},
    "biases": {"has_qkv_bias": True, "has_out_bias": True},
    "tied": {"tie_word_embeddings": True},
    "pairs": {"rope_order": "pairs"},
    "window in some layers": {"sliding_window": 20, "num_full_layers": 1},
    "window of most positions": {"sliding_window": 300},
    "layer norm": {"norm": "layer"},
    "offset": {"norm_offset": 1.0, "activation": "gelu_tanh", "embedding_scale": 3.0},
    "two scalings": {"rope_scaling": LONGROPE},
    "scaled scores": {"softmax_scale": 0.3},
    "no gate": {"is_gated": False, "activation": "gelu"},
    "one layer": {"num_hidden_layers": 1},
}
# Runs of (slot, count, number of outputs) that follow each other, and steps of all slots between them.
CHUNKS = (
    [(0, 150, 1), (1, 40, 0)],
    [(0, 90, 3), (1, 5, 5), (2, 3, 0)],
    "step",
    [(1, 1, 1)],
    [(0, 100, 0)],
    [(2, 33, 2), (0, 4, 4)],
    "step",
    "step",
)


@pytest.fixture(autouse=True, params=["1", "2"])
def num_workers(request, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", request.param)
    return int(request.param)


def random_model(**changes) -> LanguageModel:
    paddle.seed(0)
    model = LanguageModel(LanguageConfig(**{**SIZES, **changes}))
    initialize(model, std=0.2)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.set_value(paddle.normal(0.5, 0.2, parameter.shape))
    model.eval()
    return model


def with_codes(model: LanguageModel, kind: str) -> LanguageModel:
    """Return a model with quantized layers, one of which has an adapter."""
    weights = {name: layer.weight.numpy().T for name, layer in model.named_sublayers() if hasattr(layer, "weight")}
    quantize_layers(model, kind)
    rng = np.random.default_rng(3)
    for name, layer in quantized_layers(model).items():
        factors = [
            rng.standard_normal(shape).astype(np.float32) for shape in ((layer.shape[0], 4), (4, layer.shape[1]))
        ]
        layer.set_codes(quantize(np.ascontiguousarray(weights[name]), kind), factors if "1.mlp.up" in name else None)
    return model


def with_lora(model: LanguageModel) -> LanguageModel:
    """Return a model some of whose layers have adapters that change the outputs."""
    lora = pytest.importorskip("paddlenlp.peft.lora.lora_layers")
    for parent in (*(layer.self_attn for layer in model.layers), model.layers[1].mlp):
        name = "q_proj" if hasattr(parent, "q_proj") else "down_proj"
        plain = getattr(parent, name)
        adapted = lora.LoRALinear(*plain.weight.shape, r=4, lora_alpha=8, bias_attr=plain.bias is not None)
        for target, source in ((adapted.weight, plain.weight), (adapted.bias, plain.bias)):
            if source is not None:
                target.set_value(source)
        adapted.lora_B.set_value(paddle.normal(0.0, 0.3, adapted.lora_B.shape))
        setattr(parent, name, adapted)
    model.eval()
    return model


def embeds_of(rng, number: int):
    return paddle.to_tensor(rng.standard_normal([1, number, WIDTH]).astype(np.float32))


def read(decoder: CachedDecoder, cache: KVCache, is_long=(False, False, False)) -> list[np.ndarray]:
    """Return the logits after CHUNKS. In steps, slot 1 is idle: its length stays."""
    rng, found = np.random.default_rng(0), []
    cache.is_long = list(is_long)
    for chunk in CHUNKS:
        if chunk == "step":
            hidden = decoder.decode(embeds_of(rng, 3)[0], cache)
            for slot in (0, 2):
                cache.lengths[slot] += 1
        else:
            runs = [Run(slot, cache.lengths[slot], count, wanted) for slot, count, wanted in chunk]
            hidden = decoder.prefill(embeds_of(rng, sum(run.count for run in runs)), runs, cache)
            for run in runs:
                cache.lengths[run.slot] = run.end
        if hidden is not None:
            found.append(decoder.logits(hidden).numpy())
    return found


def assert_equal_to_plain(model: LanguageModel, is_long=(False, False, False)) -> None:
    with paddle.no_grad():
        plain_cache, cache = (model.new_cache(3, CAPACITY) for _ in range(2))
        expected = read(CachedDecoder(model), plain_cache, is_long)
        found = read(CpuDecoder(model), cache, is_long)
    assert [each.shape for each in found] == [each.shape for each in expected]
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * np.abs(plain).max())
    for slot, length in enumerate(cache.lengths):
        for ours, plain in zip((*cache.keys, *cache.values), (*plain_cache.keys, *plain_cache.values), strict=True):
            ours, plain = (each.numpy()[slot, :, :length] for each in (ours, plain))
            np.testing.assert_allclose(ours, plain, atol=2e-5 * np.abs(plain).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_chunks_of_several_slots_and_steps_equal_the_plain_decoder(name):
    model = random_model(**FAMILIES[name])
    assert type(decoder_for(model)) is CpuDecoder
    assert_equal_to_plain(model, (False, True, False) if name == "two scalings" else (False,) * 3)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantized_layers_equal_the_plain_decoder(kind):
    assert_equal_to_plain(with_codes(random_model(has_qkv_bias=True), kind))


def test_layers_with_adapters_equal_the_plain_decoder():
    assert_equal_to_plain(with_lora(random_model(has_qkv_bias=True)))


@pytest.mark.parametrize("name", ["grouped", "biases", "tied", "window in some layers", "offset"])
def test_a_single_slot_equals_a_pass_over_the_whole_sequence(name):
    model, rng = random_model(**FAMILIES[name]), np.random.default_rng(1)
    embeds, ids = embeds_of(rng, 200), paddle.arange(200).unsqueeze(0)
    decoder, cache = CpuDecoder(model), model.new_cache(1, 200)
    with paddle.no_grad():
        expected = model.logits(model(embeds, ids))[0].numpy()
        found, length = [], 0
        for count in (130, 1, 1, 64, 1, 3):
            part = embeds[:, length : length + count]
            if count == 1:
                hidden = decoder.decode(part[0], cache)
            else:
                hidden = decoder.prefill(part, [Run(0, length, count, count)], cache)
            found += [decoder.logits(hidden[row : row + 1]).numpy()[0] for row in range(count)]
            length += count
            cache.lengths[0] = length
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("way", ["plain", "1 thread", "2 blocks", "numba"])
def test_each_way_to_multiply_rows_gives_the_same_logits(way, monkeypatch):
    if way == "numba" and not has_kernel("float32"):
        pytest.skip("no numba")
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    monkeypatch.setenv(projection.VARIABLE, way)
    model, rng = random_model(has_qkv_bias=True), np.random.default_rng(1)
    decoder, plain = CpuDecoder(model), CachedDecoder(model)
    assert {choice.way for choice in decoder.choices()} == {way}
    caches = [model.new_cache(1, 8) for _ in range(2)]
    with paddle.no_grad():
        for length in range(4):
            embeds = embeds_of(rng, 1)[0]
            ours, theirs = (
                each.logits(each.decode(embeds, cache)).numpy()
                for each, cache in zip((decoder, plain), caches, strict=True)
            )
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
            for cache in caches:
                cache.lengths[0] = length + 1


def test_weights_stay_as_they_are_and_are_not_copied():
    model = random_model(has_qkv_bias=True)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    decoder = CpuDecoder(model)
    read(decoder, model.new_cache(3, CAPACITY))
    after = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == places
    for name, values in before.items():
        np.testing.assert_array_equal(after[name].numpy(), values)
    used = {part.weight.data_ptr() for layer in decoder.layers for part in layer.projections}
    assert used <= set(places.values())


def test_a_weight_that_changes_in_place_changes_the_next_step():
    model, rng = random_model(), np.random.default_rng(1)
    decoder, cache, embeds = CpuDecoder(model), model.new_cache(1, 8), embeds_of(rng, 1)[0]
    with paddle.no_grad():
        before = decoder.decode(embeds, cache).numpy()
        model.layers[1].input_layernorm.weight.set_value(model.layers[1].input_layernorm.weight * 2)
        expected = CachedDecoder(model).decode(embeds, model.new_cache(1, 8)).numpy()
        after = decoder.decode(embeds, cache).numpy()
    np.testing.assert_allclose(after, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(after - before).max() > 1e-2


def test_the_last_layer_is_computed_only_where_its_output_is_wanted(monkeypatch):
    model, rng = random_model(), np.random.default_rng(1)
    decoder, rows = CpuDecoder(model), []
    finish = decoder.layers[-1].finish
    monkeypatch.setattr(decoder.layers[-1], "finish", lambda x, heads: rows.append(x.shape[0]) or finish(x, heads))
    cache = model.new_cache(2, 300)
    assert decoder.prefill(embeds_of(rng, 200), [Run(0, 0, 200, 0)], cache) is None and not rows
    cache.lengths[0] = 200
    hidden = decoder.prefill(embeds_of(rng, 100), [Run(0, 200, 50, 2), Run(1, 0, 50, 1)], cache)
    assert sum(rows) == len(hidden) == 3


def test_decoders_with_options_of_their_own_take_the_plain_way():
    assert supports(random_model())
    for changes in ({"positions": "alibi", "num_key_value_heads": 4}, {"clip_qkv": 0.5}):
        model = random_model(**changes)
        assert not supports(model) and type(decoder_for(model)) is CachedDecoder
    assert not supports(random_model().to(dtype="bfloat16"))
