"""Tiny random models of transformers, saved as users' folders are, and batches for them."""

from __future__ import annotations

import json

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

SIDE, PATCH = 28, 7
IMAGE_TOKEN = 98
# (height, width), as transformers has them; three tiles at most a side.
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


def text_config(**changes):
    values = dict(
        vocab_size=99,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_theta=5000.0,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return LlamaConfig(**{**values, **changes})


def vision_config():
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=32,
    )


def hf_model(is_next: bool, seed: int = 0, **text_changes):
    """Return a seeded random LLaVA 1.5 or 1.6 of transformers, in float32 on the CPU."""
    torch.manual_seed(seed)
    shared = dict(
        vision_config=vision_config(),
        text_config=text_config(**text_changes),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text_changes.get("tie_word_embeddings", False),
    )
    if is_next:
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=PINPOINTS, **shared))
        torch.nn.init.normal_(model.model.image_newline)
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(image_seq_length=(SIDE // PATCH) ** 2, **shared))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:  # wider than the usual 0.02, so that attention and argmax are not nearly flat
            torch.nn.init.normal_(parameter, std=0.08)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.generation_config.eos_token_id = None
    return model.eval()


def save_hf(model, folder, is_next: bool, **options):
    """Save as `save_pretrained` does, with the image processor's file beside it."""
    model.save_pretrained(folder, safe_serialization=True, **options)
    processor = {
        "image_processor_type": "LlavaNextImageProcessor" if is_next else "CLIPImageProcessor",
        "crop_size": {"height": SIDE, "width": SIDE},
        "size": {"shortest_edge": SIDE},
        "image_grid_pinpoints": PINPOINTS,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def random_ids(rng: np.random.Generator, length: int) -> list[int]:
    """Return ids that are no special token and no image token."""
    return rng.integers(3, 97, size=length).tolist()
