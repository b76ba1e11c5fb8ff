"""The estimate of memory compared with Paddle's allocator, and how its components depend on the settings."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import paddle
import pytest

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.layouts.shapes import parameter_shapes
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.data.sample import Batch
from paddlemix.doctor import activations, memory
from paddlemix.doctor.activations import Arithmetic, Load, causal_pairs
from paddlemix.doctor.memory import Trainable, advice, estimate, outline
from paddlemix.models import loss
from paddlemix.models.config import LlavaConfig, VisionConfig
from paddlemix.models.vision.vit import VisionTower
from paddlemix.ops import attention, plain_attention, tiled_attention, vector_math
from paddlemix.train.arguments import ModelArguments
from paddlemix.train.freeze import freeze, freeze_parameters, lora_targets
from paddlemix.train.lora import add_lora, trained_tensors
from paddlemix.train.settings import MemorySettings, Method

SIDE, PATCH = 56, 7
LANGUAGE = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}


MANY_HEADS = {"num_attention_heads": 16}  # of a tower, so that tiles pay for 65 positions


@pytest.fixture(params=["tiles", "plain"])
def has_vector_math(request, monkeypatch) -> bool:
    """Whether operations use MKL's functions; without them they are plain."""
    if request.param == "plain":
        for module in (vector_math, memory):
            monkeypatch.setattr(module, "vector_math", lambda: None)
    elif vector_math.vector_math() is None:
        pytest.skip("paddle has no MKL on this platform")
    return request.param == "tiles"


def config_of(vision=None, **language) -> LlavaConfig:
    image = {"side": SIDE, "patch_size": PATCH, "mode": "pad", "merge": "flat"}
    parts = {"language": {**LANGUAGE, **language}, "vision": {**VISION, **(vision or {})}, "image": image}
    return LlavaConfig.from_dict(parts)


def batch_of(lengths: tuple[int, ...], num_images: int, num_trained: int) -> Batch:
    """Return samples in one row; the first ones have an image each, and the last tokens of each are trained."""
    per_image = (SIDE // PATCH) ** 2
    ids, labels, segments = [], [], []
    for number, length in enumerate(lengths):
        row = np.arange(length) % 500
        if number < num_images:
            row[1 : 1 + per_image] = IMAGE_TOKEN_ID
        own = np.full(length, -100)
        own[length - num_trained // len(lengths) :] = 7
        ids, labels, segments = [*ids, row], [*labels, own], [*segments, np.full(length, number + 1)]
    positions = np.concatenate([np.arange(length) for length in lengths])
    return Batch(
        np.concatenate(ids)[None],
        np.concatenate(labels)[None],
        positions[None],
        np.concatenate(segments)[None],
        np.zeros([num_images, 3, SIDE, SIDE], dtype=np.float32),
        np.ones(num_images, dtype=np.int64),
        np.full([num_images, 2], SIDE),
    )


def allocated() -> int:
    gc.collect()
    return paddle.base.core.host_memory_stat_current_value("Allocated", 0)


def measured(model, batch: Batch) -> tuple[int, int]:
    """Return the peak of a training step when the optimizer's state exists, and the bytes that stay allocated."""
    optimizer = paddle.optimizer.AdamW(
        1e-4,
        parameters=[parameter for parameter in model.parameters() if not parameter.stop_gradient],
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )
    for _ in range(2):
        paddle.base.core.host_memory_stat_reset_peak_value("Allocated", 0)
        model(batch, with_loss=True).backward()
        optimizer.step()
        optimizer.clear_grad()
    return paddle.base.core.host_memory_stat_peak_value("Allocated", 0), allocated()


CASES = {
    "whole": {},
    "recomputed": {"is_recomputed": True},
    "long rows": {"lengths": (700,), "is_recomputed": True},
    "long rows kept": {"lengths": (700,)},
    "one short row": {"lengths": (300,), "language": {"num_key_value_heads": 4}},
    "adapters": {"lora_rank": 8},
    "adapters recomputed": {"lora_rank": 8, "is_recomputed": True},
    "projector alone": {"frozen": ["language_model.*"]},
    "projector alone recomputed": {"frozen": ["language_model.*"], "is_recomputed": True},
    "tower too": {"is_tower_trained": True},
    "many trained tokens": {"num_trained": 400, "language": {"vocab_size": 2000}},
    "no gate": {"language": {"is_gated": False, "activation": "gelu"}},
    "too small for tiles": {"lengths": (100,), "num_trained": 20},
    "wide recomputed": {"language": {"intermediate_size": 512}, "is_recomputed": True},
    "window": {"lengths": (400, 100), "language": {"sliding_window": 256}},
    "window over a row": {"lengths": (600,), "language": {"sliding_window": 128}},
    "distances": {"lengths": (400, 300), "language": {"positions": "alibi", "num_key_value_heads": 4}},
    "tower with many heads": {"is_tower_trained": True, "vision": MANY_HEADS},
}


@pytest.mark.parametrize("name", CASES)
def test_estimate_equals_the_allocators_report(name, tmp_path, has_vector_math):
    case = {"lengths": (200, 150, 90), "num_trained": 60, "frozen": [], "language": {}, **CASES[name]}
    rank = case.get("lora_rank", 0)
    before = allocated()
    config = config_of(case.get("vision"), **case["language"])
    model = LlavaForConditionalGeneration(config)
    model.initialize_weights(0)
    freeze(model, case["frozen"], is_tower_trained=case.get("is_tower_trained", False))
    model.train()
    model.language_model.enable_recompute = case.get("is_recomputed", False)
    targets, wrapped = [], model
    if rank:
        targets = lora_targets(model, None)
        arguments = ModelArguments(lora=True, lora_rank=rank, lora_dropout=0.0)
        wrapped = add_lora(model, arguments, "float32", base=str(tmp_path))
    names = [n for n, p in model.named_parameters() if not p.stop_gradient and "lora_" not in n]
    num_images = min(len(case["lengths"]), 2)
    load = Load(case["lengths"], case["num_trained"], num_images, num_images * (SIDE // PATCH) ** 2)
    method = Method(is_recomputed=case.get("is_recomputed", False), lora_rank=rank)
    found = estimate(config, Trainable(names, targets), load, method)

    peak, lasting = measured(wrapped, batch_of(case["lengths"], num_images, case["num_trained"]))
    peak, lasting = peak - before, lasting - before
    assert found.weights + found.num_trained * 4 + found.optimizer == pytest.approx(lasting, rel=0.03)
    assert 0.95 * peak <= found.allocated <= 1.2 * peak
    assert 0.9 * (peak - lasting) <= sum(found.activations.values()) <= 1.25 * (peak - lasting)


@pytest.mark.parametrize("num_tiles", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {**MANY_HEADS, "hidden_act": "gelu"}, {"intermediate_size": 512}],
    ids=["few heads", "many heads", "wide"],
)
def test_peak_of_a_frozen_tower_is_that_of_one_image_tile(changes, num_tiles, has_vector_math):
    config = VisionConfig(**{**VISION, **changes})
    tower, pixels = VisionTower(config), paddle.rand([num_tiles, 3, SIDE, SIDE])
    with paddle.no_grad():
        tower.encode(pixels)  # what is made once
        before = allocated()
        paddle.base.core.host_memory_stat_reset_peak_value("Allocated", 0)
        tower.encode(pixels)
        peak = paddle.base.core.host_memory_stat_peak_value("Allocated", 0) - before
    arithmetic = Arithmetic(is_on_cpu=True, has_vector_math=has_vector_math)
    kept, found = activations.tower(config, Load((10,), 1, num_tiles, 0), arithmetic)
    assert kept == 0 and 0.95 * peak <= found <= 1.2 * peak


def test_strided_heads_are_not_in_tiles(monkeypatch):
    def layers(is_strided: bool) -> int:
        monkeypatch.setattr(paddle, "get_flags", lambda name: {name: is_strided})
        return estimate(config_of(), Trainable([]), Load((440,), 60, 2, 128), Method()).activations["layers"]

    monkeypatch.setattr(memory, "vector_math", object)
    assert layers(False) < layers(True)
    monkeypatch.setattr(memory, "vector_math", lambda: None)
    assert layers(False) == layers(True)


def test_limits_are_those_of_the_operations():
    for module, names in (
        (tiled_attention, ("FEWEST_QUERIES", "FEWEST_SCORES")),
        (plain_attention, ("BLOCK",)),
        (attention, ("MAX_EXPANDED",)),
        (loss, ("MAX_LOGITS",)),
    ):
        assert [getattr(activations, name) for name in names] == [getattr(module, name) for name in names]
    assert activations.WHOLE == plain_attention.MAX_SHARED_QUERIES


VICUNA = LlavaConfig()
ALL = Trainable([name for name in parameter_shapes(VICUNA) if not name.startswith("vision_tower.")])
FULL = Load((2048,) * 16, 16_000, 16, 16 * 576)
HALF = Method(dtype="bfloat16", is_half_stored=True, is_recomputed=True, device="gpu")
NUM_TRAINED, NUM_ALL = 6_759_395_328, 7_062_902_784  # Vicuna 7B with its head and a projector; CLIP-L/336 on top


def test_half_weights_have_a_float32_copy_and_two_moments():
    found = estimate(VICUNA, ALL, FULL, HALF)
    assert (found.num_trained, found.num_parameters) == (NUM_TRAINED, NUM_ALL)
    assert found.weights == 2 * NUM_ALL and found.optimizer == 12 * NUM_TRAINED
    assert estimate(VICUNA, ALL, FULL, Method()).optimizer == 8 * NUM_TRAINED


def test_each_sharding_stage_divides_one_component_more():
    plain, *stages = (
        estimate(VICUNA, ALL, FULL, dataclasses.replace(HALF, sharding=stage, num_shards=8)) for stage in range(4)
    )
    for number, stage in enumerate(stages, start=1):
        assert stage.optimizer == pytest.approx(plain.optimizer / 8, rel=1e-6)
        assert (stage.gradients < plain.gradients / 4) == (number >= 2)
        assert (stage.weights < plain.weights / 7) == (number >= 3)


def test_offloading_moves_the_optimizer_to_the_host():
    sharded = dataclasses.replace(HALF, sharding=2, num_shards=8)
    kept, moved = (
        estimate(VICUNA, ALL, FULL, method) for method in (sharded, dataclasses.replace(sharded, is_offloaded=True))
    )
    assert (moved.optimizer, moved.on_host) == (0, kept.optimizer) and moved.total == kept.total - kept.optimizer


def test_quantized_base_stores_the_decoders_matrices_in_few_bits():
    frozen = Trainable([], ["language_model.layers.0.self_attn.q_proj"])
    weights = [
        estimate(VICUNA, frozen, FULL, dataclasses.replace(HALF, lora_rank=8, base_bits=bits)).weights
        for bits in (None, 8, 4)
    ]
    num_quantized = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert weights[0] - weights[1] == num_quantized
    assert weights[1] - weights[2] == pytest.approx(num_quantized * (0.5 - 1 / 64), rel=1e-3)


def test_attention_kernel_stores_no_weights_and_needs_several_samples():
    def layers(load):
        return estimate(VICUNA, ALL, load, HALF).activations["layers"]

    several, padded = Load((2048,) * 2, 10, 1, 576), Load((2048,) * 2, 10, 1, 576, is_padded=True)
    stored = 2 * 32 * causal_pairs(2048, 512) * 6
    assert layers(padded) - layers(several) > stored


def test_weights_of_a_head_are_those_up_to_the_last_query_of_a_block():
    for length, whole in ((200, 256), (512, 512), (700, 512), (300, 256)):
        by_query = [length if length <= whole else min((query // 256 + 1) * 256, length) for query in range(length)]
        assert causal_pairs(length, whole) == sum(by_query)


def test_advice_names_settings_that_are_not_set_yet():
    method = dataclasses.replace(HALF, is_recomputed=False)
    found = estimate(VICUNA, ALL, FULL, method)
    texts = advice(found, method, 16, 8)
    assert texts[0].startswith('"recompute": true') and texts[1].startswith('"sharding": "stage2"')
    assert not any("O2" in text or "offload" in text for text in texts)
    last = dataclasses.replace(HALF, sharding=3, num_shards=8, is_offloaded=True, lora_rank=8)
    assert advice(estimate(VICUNA, Trainable([]), FULL, last), last, 1, 8) == []


def test_trainable_parameters_are_the_same_without_weights():
    model = LlavaForConditionalGeneration(config_of())
    for values in (
        {},
        {"freeze_include": ["*llama*"], "freeze_exclude": ["*llama.mm_projector*"]},
        {"mm_tunable_parts": ["mm_vision_tower,mm_mlp_adapter"]},
        {"tune_mm_mlp_adapter": True},
        {"unfreeze_mm_vision_tower": True, "freeze_mm_mlp_adapter": True},
    ):
        arguments = ModelArguments(**values)
        freeze_parameters(model, arguments)
        names = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
        assert set(outline(config_of(), arguments).names) == names


@pytest.mark.parametrize("targets", [None, [".*q_proj", "projector.0"]])
def test_trainable_parameters_beside_adapters_are_those_of_training(targets, tmp_path):
    arguments = ModelArguments(lora=True, lora_rank=4, lora_target_modules=targets)
    wrapped = add_lora(LlavaForConditionalGeneration(config_of()), arguments, "float32", base=str(tmp_path))
    trained = {name for name in trained_tensors(wrapped) if "lora_" not in name}
    found = outline(config_of(), arguments)
    assert set(found.names) == trained
    load = Load((10,), 5, 1, 0)
    number = estimate(config_of(), found, load, Method(lora_rank=4)).num_trained
    assert number == sum(tensor.size for tensor in trained_tensors(wrapped).values())


@pytest.mark.parametrize(
    ("values", "stage", "num_shards", "is_offloaded"),
    [
        ({}, 0, 1, False),
        ({"sharding": "stage2"}, 2, 8, False),
        ({"sharding": "stage3 offload", "sharding_parallel_degree": 4}, 3, 4, True),
    ],
)
def test_sharding_is_read_from_a_runs_values(values, stage, num_shards, is_offloaded):
    method = MemorySettings.read({**values, "bf16": True, "fp16_opt_level": "O2"}).method("npu", 8)
    assert (method.sharding, method.num_shards, method.is_offloaded) == (stage, num_shards, is_offloaded)
    assert (method.dtype, method.weight_bytes, method.device) == ("bfloat16", 2, "npu")
    assert MemorySettings.read(values).method("npu", 1).sharding == 0
