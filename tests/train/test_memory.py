"""The estimate of memory against what Paddle's allocator reports, and what its parts answer to."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import paddle
import pytest

from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.data.sample import Batch
from paddlemix.models.config import LlavaConfig
from paddlemix.models.llava import LlavaForConditionalGeneration
from paddlemix.train.activations import Load, causal_pairs
from paddlemix.train.arguments import ModelArguments
from paddlemix.train.freeze import freeze, lora_targets
from paddlemix.train.lora import add_lora
from paddlemix.train.memory import GIB, Method, Trains, advice, estimate

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


def config_of(**language) -> LlavaConfig:
    image = {"side": SIDE, "patch_size": PATCH, "mode": "pad", "merge": "flat"}
    return LlavaConfig.from_dict({"language": {**LANGUAGE, **language}, "vision": VISION, "image": image})


def batch_of(lengths: tuple[int, ...], num_pictures: int, num_trained: int) -> Batch:
    """Return samples behind each other in one row; the first ones hold a picture each, every one trains its end."""
    per_picture = (SIDE // PATCH) ** 2
    ids, labels, segments = [], [], []
    for number, length in enumerate(lengths):
        row = np.arange(length) % 500
        if number < num_pictures:
            row[1 : 1 + per_picture] = IMAGE_TOKEN_ID
        own = np.full(length, -100)
        own[length - num_trained // len(lengths) :] = 7
        ids, labels, segments = [*ids, row], [*labels, own], [*segments, np.full(length, number + 1)]
    positions = np.concatenate([np.arange(length) for length in lengths])
    return Batch(
        np.concatenate(ids)[None],
        np.concatenate(labels)[None],
        positions[None],
        np.concatenate(segments)[None],
        np.zeros([num_pictures, 3, SIDE, SIDE], dtype=np.float32),
        np.ones(num_pictures, dtype=np.int64),
        np.full([num_pictures, 2], SIDE),
    )


def allocated() -> int:
    gc.collect()
    return paddle.base.core.host_memory_stat_current_value("Allocated", 0)


def measured_peak(model, batch: Batch, num_steps: int = 2) -> int:
    """Return the most that was allocated in a step of training, when the optimizer's state is there."""
    optimizer = paddle.optimizer.AdamW(
        1e-4,
        parameters=[parameter for parameter in model.parameters() if not parameter.stop_gradient],
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )
    for _ in range(num_steps):
        paddle.base.core.host_memory_stat_reset_peak_value("Allocated", 0)
        model(batch, with_loss=True).backward()
        optimizer.step()
        optimizer.clear_grad()
    return paddle.base.core.host_memory_stat_peak_value("Allocated", 0)


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
}


@pytest.mark.parametrize("name", CASES)
def test_estimate_is_what_the_allocator_reports(name, tmp_path):
    case = {"lengths": (200, 150, 90), "num_trained": 60, "frozen": [], "language": {}, **CASES[name]}
    rank = case.get("lora_rank", 0)
    before = allocated()
    config = config_of(**case["language"])
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
    num_pictures = min(len(case["lengths"]), 2)
    load = Load(case["lengths"], case["num_trained"], num_pictures, num_pictures * (SIDE // PATCH) ** 2)
    method = Method(is_recomputed=case.get("is_recomputed", False), lora_rank=rank)
    found = estimate(config, Trains(names, targets), load, method)

    peak = measured_peak(wrapped, batch_of(case["lengths"], num_pictures, case["num_trained"])) - before
    lasting = allocated() - before
    print(
        name,
        found,
        "peak",
        peak,
        "lasting",
        lasting,
        "ratio",
        found.allocated / peak,
        "acts",
        sum(found.activations.values()) / (peak - lasting),
        found.weights + found.gradients + found.optimizer,
    )
    assert found.weights + found.optimizer == pytest.approx(lasting - found.num_trained * 4, rel=0.05)
    assert 0.95 * peak <= found.allocated <= 1.2 * peak
    assert 0.9 <= sum(found.activations.values()) / (peak - lasting) <= 1.25
