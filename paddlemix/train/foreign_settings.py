"""Settings of other projects, answered with this project's name of the same thing. Needs no paddle.

The names are those of LLaVA (llava/train/train.py, of all versions), transformers' TrainingArguments, xtuner (options
of `xtuner train` and the constants of its configs), ms-swift (versions 1 to 3) and Cerebras' Model Zoo (run.py and its
YAML files). A name that this project has as well, such as learning_rate, is not among them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

LLAVA, TRANSFORMERS, XTUNER, SWIFT, CEREBRAS = "LLaVA", "transformers", "xtuner", "ms-swift", "Cerebras"
DEFAULT = "leave it out (this is the default)"
OFF_WORDS = ("false", "0", "no", "none", "null", "")


class Foreign(NamedTuple):
    """A setting of another project. answer: what to do here, given the value in words."""

    owner: str
    answer: Callable[[str], str]


def shown(value: Any) -> str:
    """Return a value as it would be written for this project: true and false in small letters, a list as words."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    text = str(value)
    return text.lower() if text in ("True", "False") else text


def is_off(text: str) -> bool:
    return text.lower() in OFF_WORDS


def renamed(name: str, owner: str) -> Foreign:
    """The same value under another name."""
    return Foreign(owner, lambda text: f"use {name}: {text}" if text else f"leave it out, or use {name} (it is empty)")


def left_out(owner: str, reason: str) -> Foreign:
    """A setting that has nothing to set here."""
    return Foreign(owner, lambda text: f"leave it out ({reason})")


def of_model(option: str, owner: str) -> Foreign:
    """A setting that belongs to the model's folder here, chosen by an option of `paddlemix compose`."""
    return Foreign(owner, lambda text: f"it belongs to the model; set it with `paddlemix compose {option} {text} ...`")


def switch(setting: str, owner: str) -> Foreign:
    """A switch: a setting here if it is on, and nothing if it is off."""
    return Foreign(owner, lambda text: DEFAULT if is_off(text) else f"use {setting}")


def _sharding(text: str) -> str:
    """Translate the name or file of a DeepSpeed configuration."""
    stage = re.search(r"zero_?-?([0-3])", text.lower())
    if stage is None:
        return 'use sharding: "stage1", "stage2" or "stage3", as zero_optimization.stage in that file'
    if stage[1] == "0":
        return DEFAULT
    offload = " offload" if "offload" in text.lower() and stage[1] != "1" else ""
    return f'use sharding: "stage{stage[1]}{offload}"'


def _fsdp(text: str) -> str:
    if is_off(text) or "no_shard" in text:
        return DEFAULT
    stage = "stage2" if "shard_grad_op" in text else "stage3"
    return f'use sharding: "{stage}{" offload" if "offload" in text else ""}"'


def _bits(text: str) -> str:
    if text in ("4", "8"):
        return f"use load_in_{text}bit: true (with lora: true)"
    return "leave it out (weights are quantized only with load_in_8bit or load_in_4bit)"


def _quant_type(text: str) -> str:
    return "leave it out (4-bit weights are always NF4" + (")" if text == "nf4" else f"; {text} is not supported)")


def _dtype(text: str) -> str:
    names = {"bfloat16": "bf16: true", "bf16": "bf16: true", "float16": "fp16: true", "fp16": "fp16: true"}
    return f"use {names[text]}" if text in names else "leave it out (without bf16 or fp16, training is in float32)"


def _sft_type(text: str) -> str:
    return "leave it out (without lora, the whole model is trained)" if text == "full" else "use lora: true"


def _mode(text: str) -> str:
    return DEFAULT if text == "train" else 'use do_train: false and do_eval: true, with an "eval" split in dataset'


def _options(text: str) -> str:
    """Translate each NAME=VALUE of --cfg-options by the last part of its name."""
    answers = []
    for word in text.split():
        name, _, value = word.partition("=")
        key = name.rpartition(".")[2]
        answers.append(f"{name}: {answer(key, value) or f'--{key} {value}'}")
    return "pass each setting as a flag, --key value" + (f" ({'; '.join(answers)})" if answers else "")


def _target_modules(text: str) -> str:
    if text in ("all-linear", "auto"):
        return "leave it out (by default, all projections of the language model have adapters)"
    return "use lora_target_modules, a list of regular expressions (default: all projections of the language model)"


def _frozen_llm(text: str) -> str:
    return DEFAULT if is_off(text) else "use tune_mm_mlp_adapter: true (only the projector is trained)"


def _frozen_tower(text: str) -> str:
    return "use unfreeze_mm_vision_tower: true" if is_off(text) else DEFAULT


def _lora_of_tower(text: str) -> str:
    return r'use lora: true with lora_target_modules that match layers of the tower ("vision_tower\.layers\..*")'


def _patch_token(text: str) -> str:
    return DEFAULT if is_off(text) else "leave it out (images need no token in the vocabulary here)"


def _padding(text: str) -> str:
    mode = "square" if is_off(text) else "pad"
    return f"it belongs to the model; set it with `paddlemix compose --image-aspect-ratio {mode} ...`"


def _split_ratio(text: str) -> str:
    return f"split the file first, `paddlemix prepare split FILE --val_share {text}`"


def _freeze(text: str) -> str:
    return 'use freeze_include with patterns such as "vision_tower.*" and "language_model.*"'


ROWS_AS_NEEDED = "rows are always encoded on the fly"
DATASET = renamed("dataset", LLAVA)
EVAL_DATASET = 'use the "eval" split of dataset: {"train": [...], "eval": [{"data_files": "%s"}]}'
HDF5 = 'use dataset: {"train": [{"name": "llava_hdf5", "data_files": "%s"}]}'

_LLAVA = {
    "data_path": DATASET,
    "model_max_length": renamed("max_length", LLAVA),
    "lora_enable": switch("lora: true", LLAVA),
    "lora_r": renamed("lora_rank", LLAVA),
    "lora_weight_path": renamed("lora_path", LLAVA),
    "lora_bias": left_out(LLAVA, "biases are never trained along with an adapter"),
    "bits": Foreign(LLAVA, _bits),
    "double_quant": left_out(LLAVA, "load_in_4bit always quantizes the scales too, as QLoRA does"),
    "quant_type": Foreign(LLAVA, _quant_type),
    "lazy_preprocess": left_out(LLAVA, ROWS_AS_NEEDED),
    "is_multimodal": left_out(LLAVA, "each row says whether it has images"),
    "freeze_backbone": Foreign(LLAVA, _frozen_llm),
    "vision_tower": of_model("--vision-tower", LLAVA),
    "pretrain_mm_mlp_adapter": of_model("--projector", LLAVA),
    "mm_projector_type": of_model("--mm-projector-type", LLAVA),
    "mm_vision_select_layer": of_model("--mm-vision-select-layer", LLAVA),
    "mm_vision_select_feature": of_model("--mm-vision-select-feature", LLAVA),
    "image_aspect_ratio": of_model("--image-aspect-ratio", LLAVA),
    "image_grid_pinpoints": of_model("--image-grid-pinpoints", LLAVA),
    "mm_patch_merge_type": left_out(LLAVA, "models of `paddlemix compose --image-aspect-ratio anyres` always unpad"),
    "mm_use_im_patch_token": Foreign(LLAVA, _patch_token),
    "tune_vision_tower": switch("unfreeze_mm_vision_tower: true", LLAVA),
    "mpt_attn_impl": left_out(LLAVA, "kernels are chosen automatically for the device"),
    "cache_dir": left_out(LLAVA, "the environment variable PADDLEMIX_CACHE names the folder for downloaded models"),
}
_TRANSFORMERS = {
    "gradient_checkpointing": switch("recompute: true", TRANSFORMERS),
    "gradient_checkpointing_kwargs": left_out(TRANSFORMERS, "recompute has no options"),
    "deepspeed": Foreign(TRANSFORMERS, _sharding),
    "fsdp": Foreign(TRANSFORMERS, _fsdp),
    "fsdp_config": left_out(TRANSFORMERS, "sharding is the only setting of this kind"),
    "fsdp_transformer_layer_cls_to_wrap": left_out(TRANSFORMERS, "sharding needs no layer class"),
    "tf32": left_out(TRANSFORMERS, "bf16: true is faster; to turn TF32 off, export NVIDIA_TF32_OVERRIDE=0"),
    "eval_strategy": renamed("evaluation_strategy", TRANSFORMERS),
    "torch_compile": left_out(TRANSFORMERS, "the model is not compiled"),
    "torch_dtype": Foreign(TRANSFORMERS, _dtype),
    "attn_implementation": left_out(TRANSFORMERS, "kernels are chosen automatically for the device"),
    "dataloader_pin_memory": left_out(TRANSFORMERS, "batches are copied by the loader's threads"),
    "ddp_timeout": left_out(TRANSFORMERS, "when a process dies, the others stop within seconds"),
    "push_to_hub": left_out(TRANSFORMERS, "nothing is uploaded"),
}
_XTUNER = {
    "work_dir": renamed("output_dir", XTUNER),
    "cfg_options": Foreign(XTUNER, _options),
    "resume": Foreign(XTUNER, lambda text: f"use resume_from_checkpoint: {'true' if text == 'auto' else text}"),
    "launcher": left_out(XTUNER, "start several processes with `python -m paddle.distributed.launch`"),
    "llm": of_model("--language-model", XTUNER),
    "llm_name_or_path": of_model("--language-model", XTUNER),
    "visual_encoder": of_model("--vision-tower", XTUNER),
    "visual_encoder_name_or_path": of_model("--vision-tower", XTUNER),
    "pretrained_pth": renamed("model_name_or_path", XTUNER),
    "freeze_llm": Foreign(XTUNER, _frozen_llm),
    "freeze_visual_encoder": Foreign(XTUNER, _frozen_tower),
    "llm_lora": Foreign(XTUNER, lambda text: "use lora: true with lora_rank, lora_alpha and lora_dropout"),
    "visual_encoder_lora": Foreign(XTUNER, _lora_of_tower),
    "quantization_config": Foreign(XTUNER, lambda text: "use load_in_4bit: true or load_in_8bit: true"),
    "prompt_template": renamed("conv_mode", XTUNER),
    "data_root": left_out(XTUNER, "give full paths in data_files and image_folder of dataset"),
    "accumulative_counts": renamed("gradient_accumulation_steps", XTUNER),
    "max_epochs": renamed("num_train_epochs", XTUNER),
    "lr": renamed("learning_rate", XTUNER),
    "max_norm": renamed("max_grad_norm", XTUNER),
    "betas": Foreign(XTUNER, lambda text: "use adam_beta1 and adam_beta2"),
    "optim_type": left_out(XTUNER, "AdamW is the default; optim chooses another"),
    "pad_image_to_square": Foreign(XTUNER, _padding),
    "use_varlen_attn": switch("packing: true", XTUNER),
}


def _template(text: str) -> str:
    name = {"vicuna": "vicuna_v1", "llava1_5_hf": "vicuna_v1"}.get(text, text)
    return f"use conv_mode: {name}, or leave it out (the model has its own template)"


_SWIFT = {
    "model": renamed("model_name_or_path", SWIFT),
    "model_type": Foreign(SWIFT, lambda text: f"use model_name_or_path: the folder of {text}, or its name on a hub"),
    "model_id_or_path": renamed("model_name_or_path", SWIFT),
    "sft_type": Foreign(SWIFT, _sft_type),
    "train_type": Foreign(SWIFT, _sft_type),
    "tuner_type": Foreign(SWIFT, _sft_type),
    "template": Foreign(SWIFT, _template),
    "template_type": Foreign(SWIFT, _template),
    "batch_size": renamed("per_device_train_batch_size", SWIFT),
    "val_dataset": Foreign(SWIFT, lambda text: EVAL_DATASET % text),
    "custom_train_dataset_path": renamed("dataset", SWIFT),
    "custom_val_dataset_path": Foreign(SWIFT, lambda text: EVAL_DATASET % text),
    "train_dataset_sample": Foreign(SWIFT, lambda text: f'use "num_samples": {text} in an entry of dataset'),
    "split_dataset_ratio": Foreign(SWIFT, _split_ratio),
    "dataset_test_ratio": Foreign(SWIFT, _split_ratio),
    "lora_dropout_p": renamed("lora_dropout", SWIFT),
    "target_modules": Foreign(SWIFT, _target_modules),
    "quantization_bit": Foreign(SWIFT, _bits),
    "quant_bits": Foreign(SWIFT, _bits),
    "dtype": Foreign(SWIFT, _dtype),
    "freeze_vit": Foreign(SWIFT, _frozen_tower),
    "freeze_aligner": switch("freeze_mm_mlp_adapter: true", SWIFT),
    "use_flash_attn": left_out(SWIFT, "kernels are chosen automatically for the device"),
    "check_dataset_strategy": left_out(SWIFT, "every row is checked; on_bad_sample says what happens to bad ones"),
    "dataset_num_proc": left_out(SWIFT, ROWS_AS_NEEDED),
    "model_author": left_out(SWIFT, "what the model says about itself comes from the rows"),
    "model_name": left_out(SWIFT, "what the model says about itself comes from the rows"),
    "adapters": renamed("lora_path", SWIFT),
    "use_rslora": switch("rslora: true", SWIFT),
    "neftune_alpha": renamed("neftune_noise_alpha", SWIFT),
    "system": left_out(SWIFT, "the template has a system prompt, and a row can have its own"),
}
_CEREBRAS = {
    "params": left_out(CEREBRAS, "the configuration file is the first argument, `paddlemix sft FILE.json`"),
    "mode": Foreign(CEREBRAS, _mode),
    "model_dir": renamed("output_dir", CEREBRAS),
    "checkpoint_path": renamed("model_name_or_path", CEREBRAS),
    "load_checkpoint_states": left_out(CEREBRAS, "only the weights of model_name_or_path are loaded"),
    "data_dir": Foreign(CEREBRAS, lambda text: HDF5 % text),
    "img_data_dir": renamed("image_folder", CEREBRAS),
    "image_size": of_model("--image-size", CEREBRAS),
    "image_feature_select_layer_idx": of_model("--mm-vision-select-layer", CEREBRAS),
    "image_start_idx": left_out(CEREBRAS, "an image goes where its row has <image>"),
    "freeze": Foreign(CEREBRAS, _freeze),
    "max_sequence_length": renamed("max_length", CEREBRAS),
    "num_steps": renamed("max_steps", CEREBRAS),
}
FOREIGN: Mapping[str, Foreign] = {**_CEREBRAS, **_SWIFT, **_XTUNER, **_TRANSFORMERS, **_LLAVA}


def answer(key: str, value: Any) -> str | None:
    """Return what to do about another project's setting, None if no other project is known to have it."""
    return FOREIGN[key].answer(shown(value)) if key in FOREIGN else None


def unknown_setting(key: str, value: Any, known: Collection[str]) -> str:
    """Say what to do about an unknown setting of another project, or which known one it is nearly spelled as."""
    if key in FOREIGN:
        return f"{key!r} is a setting of {FOREIGN[key].owner}: {answer(key, value)}"
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"unknown setting {key!r}" + (f": did you mean {near[0]!r}?" if near else "")


def check_foreign(values: Mapping[str, Any]) -> None:
    """Raise ValueError that answers all settings of other projects."""
    found = [unknown_setting(key, value, ()) for key, value in values.items() if key in FOREIGN]
    if found:
        raise ValueError("; ".join(found))
