"""The settings of a training run: ours, PaddleMIX's and every one of paddlenlp's TrainingArguments."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from paddlenlp.trainer import TrainingArguments

from .. import device as devices
from ..log import notice
from .values import FlagText


@dataclass
class ModelArguments:
    """What is trained. Keys are PaddleMIX's; the last ones are new."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "folder of the model to start from"})
    freeze_include: list[str] | None = field(default=None, metadata={"help": "patterns of parameters to freeze"})
    freeze_exclude: list[str] | None = field(default=None, metadata={"help": "patterns of parameters to train anyway"})
    lora: bool = field(default=False, metadata={"help": "train low-rank adapters and the projector only"})
    lora_path: str | None = field(default=None, metadata={"help": "adapter folder to go on from"})
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_target_modules: list[str] | None = field(default=None, metadata={"help": "regular expressions of layer names"})
    load_in_8bit: bool = field(default=False, metadata={"help": "hold the base's weights in int8; needs lora"})
    load_in_4bit: bool = field(default=False, metadata={"help": "hold the base's weights in NF4 (QLoRA); needs lora"})
    unfreeze_mm_vision_tower: bool = field(default=False, metadata={"help": "train the vision tower too"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "do not train the projector"})
    version: str | None = field(default=None, metadata={"help": "PaddleMIX's older name of conv_mode"})
    conv_mode: str | None = field(default=None, metadata={"help": "template; default plain (stage 1) or the model's"})


@dataclass
class DataArguments:
    """What it is trained on."""

    dataset: dict | list | str | None = field(default=None, metadata={"help": '{"train": [...], "eval": [...]}'})
    image_folder: str | None = field(default=None, metadata={"help": "where relative picture paths start"})
    max_length: int = field(default=2048, metadata={"help": "tokens of a sample, its image tokens included"})


@dataclass
class LlavaTrainingArguments(TrainingArguments):
    """paddlenlp's TrainingArguments and the learning rates of projector and vision tower."""

    mm_projector_lr: float | None = field(default=None, metadata={"help": "learning rate of the projector"})
    mm_vision_tower_lr: float | None = field(default=None, metadata={"help": "learning rate of the vision tower"})


# Keys that PaddleMIX accepts and its LLaVA code never reads.
WITHOUT_EFFECT = frozenset(
    "prefix_tuning num_prefix_tokens from_aistudio save_to_aistudio aistudio_repo_id aistudio_repo_private "
    "aistudio_repo_license aistudio_token neftune neftune_noise_alpha task_name src_length eval_with_do_generation "
    "save_generation_output lazy chat_template splits top_k top_p benchmark profiler_options warmup_start_lr eta_min "
    "lr_scheduler_name use_flash_attention text_model_name_or_path".split()
)
# Keys that change nothing but speed, until they are there.
NOT_YET = {
    "mixtoken": "samples are not packed: each stands in a row of its own",
    "group_by_modality_length": "samples are shuffled without grouping",
}
# Below these, training would divide by zero or fail far from the cause.
AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0,
    "max_length": 1,
    "lora_rank": 1,
    "lora_dropout": 0,
}
# Keys that split the work over processes; paddlenlp resets them without a word when there is only one.
PARALLEL = ("sharding", "sharding_parallel_degree", "tensor_parallel_degree", "pipeline_parallel_degree")


def parse(values: dict[str, Any]) -> tuple[ModelArguments, DataArguments, LlavaTrainingArguments]:
    """Turn raw values into settings.

    Raises ValueError for keys that nobody knows, naming the nearest, for values of the wrong type, and for settings
    that do not go together. Keys that PaddleMIX accepts without using are named in one line.
    """
    classes = (ModelArguments, DataArguments, LlavaTrainingArguments)
    hints = {cls: _field_types(cls) for cls in classes}
    _check_keys(values, set().union(*hints.values()))
    chosen = []
    for cls in classes:
        own = {key: convert(key, value, hints[cls][key]) for key, value in values.items() if key in hints[cls]}
        _check_limits(own)
        chosen.append(_training_values(own) if cls is LlavaTrainingArguments else own)
    try:
        model, data, training = (cls(**own) for cls, own in zip(classes, chosen, strict=True))
    except (AssertionError, NotImplementedError) as error:
        raise ValueError(f"paddlenlp refuses these training settings: {error}") from error
    _tell_what_one_process_ignores(chosen[2], training)
    return model, data, training


def _field_types(cls) -> dict[str, Any]:
    """Return name -> type; paddlenlp declares some fields without None and defaults them to it."""
    hints = typing.get_type_hints(cls)
    return {
        item.name: hints[item.name] | None if item.default is None else hints[item.name]
        for item in dataclasses.fields(cls)
        if item.init
    }


def _check_keys(values: dict[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known and key not in WITHOUT_EFFECT and key not in NOT_YET:
            near = difflib.get_close_matches(key, sorted(known | WITHOUT_EFFECT), n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown setting {key!r}{hint}")
    unused = sorted(set(values) & WITHOUT_EFFECT)
    if unused:
        notice(f"accepted for PaddleMIX's sake, without effect here as there: {', '.join(unused)}")
    for key, effect in NOT_YET.items():
        if values.get(key) not in (None, False, "false"):
            notice(f"{key}: {effect}")


def _check_limits(own: dict[str, Any]) -> None:
    for key, least in AT_LEAST.items():
        if own.get(key) is not None and own[key] < least:
            raise ValueError(f"{key} is {own[key]}: expected at least {least}")


def _tell_what_one_process_ignores(asked: dict[str, Any], training: TrainingArguments) -> None:
    ignored = [f"{key} {asked[key]}" for key in PARALLEL if asked.get(key) not in (None, "", -1, 1)]
    if ignored and training.world_size <= 1:
        notice(f"{', '.join(ignored)}: without effect in one process, python -m paddle.distributed.launch starts more")


def _training_values(own: dict[str, Any]) -> dict[str, Any]:
    """Fill in the device, and replace half precision where the device lacks it."""
    if not own.get("output_dir"):
        raise ValueError("output_dir is missing: name the folder for checkpoints and the result")
    own = {**own, "device": devices.use_device(own.get("device"))}
    for key, dtype in (("fp16", "float16"), ("bf16", "bfloat16")):
        if own.get(key) and not devices.can_compute(dtype, own["device"]):
            notice(f"{key}: {own['device']} has no {dtype} kernels for matrix products and convolutions; using float32")
            own.update({key: False, f"{key}_full_eval": False, "fp16_opt_level": "O1", "amp_master_grad": False})
    if own.get("fp16_opt_level") == "O2" and not (own.get("fp16") or own.get("bf16")):
        own["fp16_opt_level"] = "O1"
        notice("fp16_opt_level O2 needs fp16 or bf16: the weights stay in float32")
    return own


def convert(key: str, value: Any, hint: Any) -> Any:
    """Bring a value to its field's type. Raises ValueError that names key, value and type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    if isinstance(value, FlagText) and any(_kind(option) in (list, dict) for option in options):
        value = _read_json_text(key, value)
    for option in options:
        try:
            return _as(option, value)
        except (TypeError, ValueError, OverflowError):
            continue
    raise ValueError(f"{key} is {value!r}: expected {' or '.join(_describe(option) for option in options)}")


def _read_json_text(key: str, text: FlagText) -> Any:
    """Return what a flag's text says if it begins like a JSON list or object, else the text."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{key} is {text!r}, which is not valid JSON: {error}") from None


def _kind(option) -> type:
    return typing.get_origin(option) or option


def _describe(option) -> str:
    if typing.get_args(option):
        return str(option).replace("typing.", "").lower()
    if issubclass(option, enum.Enum):
        return "one of " + ", ".join(item.value for item in option)
    return option.__name__


def _as(option, value):
    """Return the value as a type; raises TypeError, ValueError or OverflowError if it is none."""
    kind = _kind(option)
    if kind is list:
        return _as_list(typing.get_args(option), value)
    if kind is bool:
        return value if isinstance(value, bool) else _as_bool(str(value))
    if kind in (int, float):
        return _as_number(kind, value)
    if kind in (dict, str) and not isinstance(value, kind):
        raise TypeError(f"no {kind.__name__}")
    return kind(value)


def _as_list(item_types: tuple, value) -> list:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)):
        raise TypeError("no list")
    if item_types:
        return [_as(item_types[0], item) for item in value]
    return [str(item) if isinstance(item, FlagText) else item for item in value]


def _as_bool(word: str) -> bool:
    if word.lower() not in ("true", "1", "false", "0"):
        raise ValueError("no truth value")
    return word.lower() in ("true", "1")


def _as_number(kind: type, value) -> int | float:
    if isinstance(value, bool):
        raise TypeError("no number")
    number = float(value)
    if kind is int and number != int(number):
        raise ValueError("no whole number")
    return kind(number)
