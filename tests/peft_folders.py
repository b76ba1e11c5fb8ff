"""Adapters that peft creates and saves for a tiny transformers model, with random values in all trained weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import reference_models as tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

CLASSES = (transformers.LlavaForConditionalGeneration, transformers.LlavaNextForConditionalGeneration)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def load_base(folder: Path, is_next: bool):
    return CLASSES[is_next].from_pretrained(folder).eval()


def train(folder: Path, base: Path, is_next: bool = False, **settings) -> Path:
    """Save an adapter with these LoraConfig settings, as a training run would, and return its folder."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(load_base(base, is_next), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **settings}))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * noise.clamp(-1, 1))
            else:
                parameter.copy_(noise * 0.2 if "lora_" in name else parameter + noise * 0.2)
    wrapped.save_pretrained(folder)
    change_config(folder, base_model_name_or_path=str(base))
    return folder


def logits_of(folder: Path, base: Path, batch, is_next: bool = False) -> np.ndarray:
    """Return the logits of transformers with the adapter loaded unmerged, as users load it."""
    wrapped = peft.PeftModel.from_pretrained(load_base(base, is_next), folder).eval()
    return tiny.hf_logits(wrapped, batch, is_next)


def change_config(folder: Path, **changes) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def change_tensors(folder: Path, change) -> Path:
    """Replace the adapter's tensors, a dict by name, by `change(tensors)`."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder
