"""Bounds of the numeric settings of a run. Needs neither paddle nor paddlenlp.

Beyond them a run would divide by zero, fail far from the cause, run out of memory or end with weights that are not
finite. They are wide: a value within them need not be a good one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..foreign_json import Kind, check_values, list_of, one_of

COUNT = 10**9  # more steps, rows or tokens than any run has
CARDS = 1 << 16


def between(least: float, most: float, *, is_above: bool = False, is_below: bool = False) -> Kind:
    """Return the kind of finite numbers from least to most. is_above, is_below: without least, without most."""

    def is_good(value: Any) -> bool:
        is_low = value <= least if is_above else value < least
        is_high = value >= most if is_below else value > most
        return not (is_low or is_high or math.isnan(value))

    low, high = "above" if is_above else "at least", "below" if is_below else "at most"
    return Kind(is_good, f"{low} {_written(least)} and {high} {_written(most)}")


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


RATE, STEPS, BATCH, DEGREE = between(0, 1), between(0, COUNT), between(1, CARDS), between(-1, CARDS)
OFF = one_of((False,))
BOUNDS: dict[str, Kind] = {
    # The model.
    "lora_rank": between(1, 1 << 14),
    "lora_alpha": between(1, 1 << 20),
    "vision_lora_rank": between(1, 1 << 14),
    "vision_lora_alpha": between(1, 1 << 20),
    "lora_dropout": between(0, 1, is_below=True),
    "lora_plus_scale": between(0, 10_000, is_above=True),
    "neftune_noise_alpha": between(0, 1000),
    # The data.
    "max_length": between(1, 1 << 22),
    "max_bad_samples": between(0, COUNT),
    "seed": between(0, 2**32 - 1),
    # Batches and steps.
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": BATCH,
    "gradient_accumulation_steps": BATCH,
    "eval_accumulation_steps": BATCH,
    "num_train_epochs": between(1e-6, 100_000),
    "max_steps": between(-1, COUNT),
    # The optimizer.
    "learning_rate": RATE,
    "mm_projector_lr": RATE,
    "mm_vision_tower_lr": RATE,
    "weight_decay": between(0, 10),
    "adam_beta1": between(0, 1, is_below=True),
    "adam_beta2": between(0, 1, is_below=True),
    "adam_epsilon": between(0, 1, is_above=True),
    "max_grad_norm": between(0, 1e12),  # 0: gradients are not clipped
    "warmup_ratio": between(0, 1),
    "warmup_steps": STEPS,
    "num_cycles": between(0, 10_000),
    "lr_end": RATE,
    "power": between(0, 100),
    "scale_loss": between(1, 2**32),
    "max_loss_ratio": between(0, 1e9),
    "fp16_opt_level": one_of(("O0", "O1", "O2")),
    "loss_reduction": one_of(("token", "sample")),
    # Logging, saving and evaluation.
    "logging_steps": STEPS,
    "save_steps": STEPS,
    "eval_steps": STEPS,
    "save_total_limit": STEPS,
    "max_evaluate_steps": between(-1, COUNT),
    "minimum_eval_times": between(1, COUNT),
    "num_eval_answers": between(0, 10_000),
    "skip_data_intervals": list_of(list_of(STEPS, 2, 2), least=0),
    "past_index": one_of((-1,)),  # only for models that pass a state from step to step
    "pad_token_id": STEPS,
    "expert_min_capacity": between(1, 2**32),
    "expert_max_capacity": between(1, 2**32),
    # For paddlenlp's own models only: here they would hang, or fail after the start.
    "to_static": OFF,
    "unified_checkpoint": OFF,
    "count_trained_tokens": OFF,
    # Processes.
    "dataloader_num_workers": between(0, 256),
    "local_rank": between(-1, CARDS),
    "sharding_degree": DEGREE,
    "sharding_parallel_degree": DEGREE,
    "tensor_parallel_degree": DEGREE,
    "pipeline_parallel_degree": DEGREE,
    "sep_parallel_degree": DEGREE,
    "context_parallel_degree": DEGREE,
    "expert_parallel_degree": DEGREE,
    "expert_tensor_parallel_degree": DEGREE,
    "sharding_comm_buffer_size_MB": between(-1, 1 << 20),
    "ordered_save_group_size": one_of((0,)),  # paddlenlp's own code fails with others
    "pdc_download_timeout": between(1, 10**6),
}


def check_bounds(values: Mapping[str, Any]) -> None:
    """Raise ValueError that names the values out of bounds and their bounds. values: of the right types."""
    check_values({key: value for key, value in values.items() if value is not None}, BOUNDS, "settings")
