"""The fields of a training run's settings, with their defaults and a sentence each. Needs no paddle.

`arguments` adds the rest of paddlenlp's TrainingArguments and checks them; `settings` has the fields of the data.
"""

from __future__ import annotations

# ruff: noqa: RUF009  `_setting` is dataclasses.field
import dataclasses
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..device import DEVICE_NAMES
from .settings import DataArguments


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """The model and which of its parameters train. The keys are PaddleMIX's and LLaVA's."""

    model_name_or_path: str | None = _setting(None, "the model to start from: a folder or a name on a hub (required)")
    freeze_include: list[str] | None = _setting(None, "patterns of parameter names to freeze")
    freeze_exclude: list[str] | None = _setting(None, "patterns of parameter names to train anyway")
    lora: bool = _setting(False, "train low-rank adapters and the projector only")
    lora_path: str | None = _setting(None, "folder of an adapter to continue from")
    lora_rank: int = _setting(8, "rank of the adapters")
    lora_alpha: int = _setting(16, "scale of the adapters, which is alpha / rank")
    vision_lora_rank: int | None = _setting(None, "rank in the vision tower (default: lora_rank)")
    vision_lora_alpha: int | None = _setting(None, "scale in the vision tower (default: lora_alpha)")
    lora_dropout: float = _setting(0.05, "dropout in front of the adapters")
    lora_target_modules: list[str] | None = _setting(
        None, "regular expressions of layer names (default: every projection of the language model)"
    )
    load_in_8bit: bool = _setting(False, "keep the frozen decoder in int8, with lora or in stage 1")
    load_in_4bit: bool = _setting(False, "keep the frozen decoder in NF4, with lora (QLoRA) or in stage 1")
    unfreeze_mm_vision_tower: bool = _setting(False, "train the vision tower too")
    freeze_mm_mlp_adapter: bool = _setting(False, "do not train the projector")
    tune_mm_mlp_adapter: bool = _setting(False, "train the projector only (stage 1)")
    mm_tunable_parts: list[str] | None = _setting(
        None, "parts to train: mm_vision_tower, mm_mlp_adapter, mm_language_model"
    )
    rslora: bool = _setting(False, "scale the adapters by alpha / sqrt(rank)")
    lora_plus_scale: float = _setting(1.0, "LoRA+: learning rate of B over that of A")
    neftune: bool = _setting(False, "add noise to the embeddings of text tokens")
    neftune_noise_alpha: float = _setting(5.0, "amount of that noise")
    mm_use_im_start_end: bool | None = _setting(
        None, "whether the model has marks around an image, as a check (`paddlemix compose --image-marks` adds them)"
    )
    version: str | None = _setting(None, "PaddleMIX's older name of conv_mode")
    conv_mode: str | None = _setting(None, "chat template (default: plain in stage 1, the model's own in stage 2)")


@dataclass
class OwnArguments:
    """Settings of the training itself that paddlenlp does not have."""

    mm_projector_lr: float | None = _setting(None, "learning rate of the projector (default: learning_rate)")
    mm_vision_tower_lr: float | None = _setting(None, "learning rate of the vision tower (default: learning_rate)")
    loss_reduction: str = _setting("token", "mean of the loss over all trained tokens (token) or over samples (sample)")
    max_loss_ratio: float = _setting(10.0, "stop when a loss is this many times the usual one; 0: never")
    num_eval_answers: int = _setting(0, "rows of the eval split to answer at each evaluation, for a person to read")
    group_by_length: bool = _setting(False, "batch rows of similar length")
    group_by_modality_length: bool = _setting(False, "the same, with images in all rows of a batch or in none")


@dataclass
class TrainerArguments:
    """The settings of paddlenlp's TrainingArguments that a help lists, with its defaults."""

    output_dir: str = _setting(None, "folder for the checkpoints and the result (required)")
    overwrite_output_dir: bool = _setting(False, "start anew in a folder that has an earlier run")
    resume_from_checkpoint: str | None = _setting(None, "checkpoint to go on from (default: the last of output_dir)")
    device: str = _setting(None, f"{DEVICE_NAMES} (default: the best)")
    do_train: bool = _setting(None, "train (default: true, unless do_eval is true)")
    do_eval: bool = _setting(False, "evaluate; without do_train nothing is trained")
    seed: int = _setting(42, "seed of the order of the rows, of new weights and of dropout")
    per_device_train_batch_size: int = _setting(8, "samples that a card trains at a time")
    per_device_eval_batch_size: int = _setting(8, "samples that a card evaluates at a time")
    gradient_accumulation_steps: int = _setting(1, "batches of a card that make one step")
    num_train_epochs: float = _setting(1.0, "how often the data is read")
    max_steps: int = _setting(-1, "number of steps, in place of num_train_epochs; -1: not used")
    learning_rate: float = _setting(5e-5, "highest learning rate")
    lr_scheduler_type: str = _setting("linear", "linear, cosine, constant, constant_with_warmup or polynomial")
    warmup_ratio: float = _setting(0.0, "share of the steps in which the learning rate rises")
    warmup_steps: int = _setting(0, "number of these steps, in place of warmup_ratio")
    weight_decay: float = _setting(0.0, "weight decay of AdamW")
    adam_beta1: float = _setting(0.9, "decay of AdamW's mean of the gradients")
    adam_beta2: float = _setting(0.999, "decay of AdamW's mean of their squares")
    max_grad_norm: float = _setting(1.0, "norm to which gradients are clipped; 0: not clipped")
    bf16: bool = _setting(False, "compute in bfloat16")
    fp16: bool = _setting(False, "compute in float16")
    fp16_opt_level: str = _setting("O1", "O1: weights in float32; O2: weights in half precision too")
    recompute: bool = _setting(False, "compute activations again in the backward pass: less memory, more time")
    sharding: str = _setting("", "divide the optimizer over cards (stage1), gradients too (stage2), or all (stage3)")
    sharding_parallel_degree: int = _setting(-1, "number of cards of a division; -1: all")
    tensor_parallel_degree: int = _setting(-1, "number of cards that share a decoder; -1: each has its own")
    dataloader_num_workers: int = _setting(0, "processes that read rows ahead; 0: a thread does")
    save_strategy: str = _setting("steps", "when to write a checkpoint: steps, epoch or no")
    save_steps: int = _setting(500, "steps between two checkpoints")
    save_total_limit: int | None = _setting(None, "number of checkpoints to keep (default: all)")
    load_best_model_at_end: bool = _setting(False, "make the best checkpoint the result")
    metric_for_best_model: str | None = _setting(None, "what is best: loss (default), or a metric of eval_tasks")
    evaluation_strategy: str = _setting("no", "when to evaluate: steps, epoch or no")
    eval_steps: int | None = _setting(None, "steps between two evaluations (default: logging_steps)")
    logging_steps: int = _setting(500, "steps between two lines about the loss")
    report_to: list[str] | None = _setting(None, "programs that draw the loss: visualdl, tensorboard, wandb, swanlab")


class Setting(NamedTuple):
    """A setting as a help shows it. text: a sentence, with the default."""

    name: str
    text: str


# Title of a group -> its settings, in the order of a help.
GROUPS: dict[str, str] = {
    "model": "model_name_or_path conv_mode mm_use_im_start_end load_in_8bit load_in_4bit device",
    "data": "dataset image_folder max_length packing group_by_length group_by_modality_length on_bad_sample "
    "max_bad_samples dataloader_num_workers seed",
    "what trains": "tune_mm_mlp_adapter freeze_mm_mlp_adapter unfreeze_mm_vision_tower mm_tunable_parts freeze_include "
    "freeze_exclude",
    "LoRA": "lora lora_rank lora_alpha lora_dropout lora_target_modules lora_path vision_lora_rank "
    "vision_lora_alpha rslora lora_plus_scale",
    "optimizer": "learning_rate mm_projector_lr mm_vision_tower_lr lr_scheduler_type warmup_ratio warmup_steps "
    "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps weight_decay adam_beta1 "
    "adam_beta2 max_grad_norm loss_reduction max_loss_ratio neftune neftune_noise_alpha",
    "memory": "bf16 fp16 fp16_opt_level recompute sharding sharding_parallel_degree tensor_parallel_degree",
    "checkpoints": "output_dir overwrite_output_dir resume_from_checkpoint save_strategy save_steps save_total_limit "
    "logging_steps report_to",
    "evaluation": "do_train do_eval evaluation_strategy eval_steps per_device_eval_batch_size eval_tasks "
    "num_eval_answers load_best_model_at_end metric_for_best_model",
}
NOT_LISTED = ("version", "mixtoken")  # older names of conv_mode and packing


def listed_settings() -> dict[str, list[Setting]]:
    """Return the settings of each group, with their sentences and defaults."""
    classes = (ModelArguments, DataArguments, OwnArguments, TrainerArguments)
    fields = {item.name: item for cls in classes for item in dataclasses.fields(cls)}
    return {title: [_shown(fields[name]) for name in names.split()] for title, names in GROUPS.items()}


def _shown(item: dataclasses.Field) -> Setting:
    """Return a setting with its default, unless that is nothing or the sentence says it."""
    text, default = item.metadata["help"], item.default
    if default in (None, "") or "(default" in text:
        return Setting(item.name, text)
    return Setting(item.name, f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})")
