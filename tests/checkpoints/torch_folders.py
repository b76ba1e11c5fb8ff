"""Folders as LLaVA's own code and xtuner leave them, made with torch and transformers from a tiny model of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import reference_models as tiny
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

# transformers' names in memory, and what LLaVA's own code calls the same.
OFFICIAL = (
    ("model.language_model.", "model."),
    ("model.vision_tower.", "model.vision_tower.vision_tower."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.image_newline", "model.image_newline"),
    ("lm_head.", "lm_head."),
)
TOWER = "model.vision_tower."
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
ANYRES = {
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": tiny.PINPOINTS,
}


def official_name(name: str) -> str:
    old, new = max((pair for pair in OFFICIAL if name.startswith(pair[0])), key=lambda pair: len(pair[0]))
    return new + name[len(old) :]


def official_state(model) -> dict[str, torch.Tensor]:
    return {official_name(name): tensor.clone() for name, tensor in model.state_dict().items()}


def official_config(model, tower: str, **changes) -> dict:
    """Return LLaVA's config.json; a change to None takes the key away."""
    text = model.config.text_config.to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings")
    values = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **{name: text[name] for name in kept},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": model.config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "transformers_version": "4.31.0",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None or name == "rope_scaling"}


def write_torch(folder: Path, state: dict[str, torch.Tensor], kind: str) -> None:
    """Write weights: kind is "bin", "safetensors", or one of them after "sharded-"."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, ending = ("pytorch_model", "bin") if kind.endswith("bin") else ("model", "safetensors")
    names = sorted(state)
    num_shards = 3 if kind.startswith("sharded") else 1
    weight_map = {}
    for number in range(num_shards):
        part = {name: state[name].contiguous() for name in names[number::num_shards]}
        suffix = f"-{number + 1:05d}-of-{num_shards:05d}" if num_shards > 1 else ""
        path = folder / f"{stem}{suffix}.{ending}"
        torch.save(part, path) if ending == "bin" else save_file(part, path, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, path.name)
    if num_shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def write_tower(folder: Path, model, kind: str = "safetensors") -> Path:
    """Write a model's vision tower as transformers does."""
    model.model.vision_tower.save_pretrained(folder, safe_serialization=kind == "safetensors")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": tiny.SIDE}, **PIXELS}))
    return folder


def write_official(folder: Path, model, tower: str, kind: str = "bin", has_tower: bool = False, **changes) -> Path:
    """Write LLaVA's own layout; has_tower: the folder includes the tower's weights."""
    state = official_state(model)
    if not has_tower:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(TOWER)}
    write_torch(folder, state, kind)
    (folder / "config.json").write_text(json.dumps(official_config(model, tower, **changes)))
    return folder


def language_model(model) -> LlamaForCausalLM:
    """Return a model's decoder as a separate LLaMA."""
    config = model.config.text_config
    config.architectures = ["LlamaForCausalLM"]
    llama = LlamaForCausalLM(config)
    start = "model.language_model."
    state = {
        name.replace(start, "model."): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith((start, "lm_head."))
    }
    llama.load_state_dict(state)
    llama.generation_config.eos_token_id = 2
    return llama


def write_projector(folder: Path, model) -> Path:
    """Write xtuner's projector/."""
    folder.mkdir(parents=True)
    start = "model.multi_modal_projector.linear_"
    state = {
        name.replace(f"{start}1", "model.0").replace(f"{start}2", "model.2"): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(start)
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = {
        "architectures": ["ProjectorModel"],
        "auto_map": {"AutoModel": "modeling_projector.ProjectorModel"},
        "bias": True,
        "depth": 2,
        "hidden_act": "gelu",
        "llm_hidden_size": model.config.text_config.hidden_size,
        "model_type": "projector",
        "visual_hidden_size": model.config.vision_config.hidden_size,
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def change_weights(model, targets: dict[str, tuple[torch.Tensor, torch.Tensor]], scaling: float) -> None:
    """Add B A * scaling to the named matrices of a model, in float64."""
    state = model.state_dict()
    for name, (first, second) in targets.items():
        weight = state[name]
        weight.copy_((weight.double() + second.double() @ first.double() * scaling).to(weight.dtype))


def random_factors(model, names, rank: int, seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (A [rank, in], B [out, rank]) for the named matrices of a model."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name in names:
        rows, columns = model.state_dict()[name].shape
        draw = [torch.randn(shape, generator=generator) * 0.2 for shape in ((rank, columns), (rows, rank))]
        factors[name] = (draw[0], draw[1])
    return factors


def write_peft(folder: Path, tensors: dict[str, torch.Tensor], kind: str = "safetensors", **changes) -> Path:
    """Write an adapter as peft does; `tensors` stand under the names of the model that it was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "alpha_pattern": {},
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_alpha": 6,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "rank_pattern": {},
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    state = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    if kind == "safetensors":
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, folder / "adapter_model.bin")
    return folder


def factor_tensors(factors: dict[str, tuple[torch.Tensor, torch.Tensor]], rename) -> dict[str, torch.Tensor]:
    """Return factors under peft's names; rename: from transformers' name of a weight to the trained model's."""
    tensors = {}
    for name, (first, second) in factors.items():
        layer = rename(name).removesuffix(".weight")
        tensors |= {f"{layer}.lora_A.weight": first, f"{layer}.lora_B.weight": second}
    return tensors
