"""CLIP's towers (Radford et al. 2021): OpenAI's ViT-B/32, B/16 and L/14 at 224 and 336 px, and others like them."""

from __future__ import annotations

from ....image.spec import CLIP_MEAN, CLIP_STD
from .family import ATTENTION, BASE, LARGE, TowerFamily

CLIP = TowerFamily(
    name="clip",
    title="CLIP",
    model_type="clip_vision_model",
    whole_model_type="clip",
    architecture="CLIPVisionModel",
    options={"has_class_token": True, "has_pre_norm": True, "has_patch_bias": False},
    defaults={
        **BASE,
        "image_size": 224,
        "patch_size": 32,
        "layer_norm_eps": 1e-5,
        "hidden_act": "quick_gelu",
    },
    constants={
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "num_channels": 3,
        "projection_dim": 768,  # width of CLIP's projection head, which LLaVA does not have
    },
    parts=(
        ("class_embedding", "embeddings.class_embedding", "class_embedding"),
        ("patch_embedding.weight", "embeddings.patch_embedding.weight", "conv1.weight"),
        ("position_embedding", "embeddings.position_embedding.weight", "positional_embedding.weight"),
        ("pre_norm.weight", "pre_layrnorm.weight", "ln_pre.weight"),
        ("pre_norm.bias", "pre_layrnorm.bias", "ln_pre.bias"),
        ("post_norm.weight", "post_layernorm.weight", "ln_post.weight"),
        ("post_norm.bias", "post_layernorm.bias", "ln_post.bias"),
    ),
    linears=(
        *((name, name, name) for name in ATTENTION),
        ("fc1", "mlp.fc1", "linear1"),
        ("fc2", "mlp.fc2", "linear2"),
    ),
    norms=(("norm1", "layer_norm1", "norm1"), ("norm2", "layer_norm2", "norm2")),
    layers=("encoder.layers", "transformer.layers"),
    unused=(),
    image_processor="CLIPImageProcessor",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    has_crop=True,
    known={
        "openai/clip-vit-large-patch14-336": {**LARGE, "patch_size": 14, "image_size": 336},
        "openai/clip-vit-large-patch14": {**LARGE, "patch_size": 14},
        "openai/clip-vit-base-patch16": {"patch_size": 16},
        "openai/clip-vit-base-patch32": {},
    },
    hub_owners=("openai/", "laion/"),
    own_folder="vision_tower",
)
