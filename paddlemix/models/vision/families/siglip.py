"""SigLIP's towers (Zhai et al. 2023): no class token, no norm before the layers, a bias in the patch embedding.

LLaVA-NeXT's own class for them (`llava/model/multimodal_encoder/siglip_encoder.py`) removes the last layer and takes
the output of the others before the final norm: the second to last hidden state of the whole tower, all patches.
"""

from __future__ import annotations

from .family import ATTENTION, BASE, LARGE, TowerFamily

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# PaddleMIX uses transformers' names.
LINEARS = (*ATTENTION, "mlp.fc1", "mlp.fc2")

SIGLIP = TowerFamily(
    name="siglip",
    title="SigLIP",
    model_type="siglip_vision_model",
    whole_model_type="siglip",
    architecture="SiglipVisionModel",
    options={"has_class_token": False, "has_pre_norm": False, "has_patch_bias": True},
    defaults={
        **BASE,
        "image_size": 224,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh",
    },
    constants={
        "attention_dropout": 0.0,
        "num_channels": 3,
        "vision_use_head": False,  # the head that pools the patches, which LLaVA does not have
    },
    parts=tuple(
        (ours, theirs, theirs)
        for ours, theirs in (
            ("patch_embedding.weight", "embeddings.patch_embedding.weight"),
            ("patch_embedding.bias", "embeddings.patch_embedding.bias"),
            ("position_embedding", "embeddings.position_embedding.weight"),
            ("post_norm.weight", "post_layernorm.weight"),
            ("post_norm.bias", "post_layernorm.bias"),
        )
    ),
    linears=tuple((name.removeprefix("mlp."), name, name) for name in LINEARS),
    norms=(("norm1", "layer_norm1", "layer_norm1"), ("norm2", "layer_norm2", "layer_norm2")),
    layers=("encoder.layers", "encoder.layers"),
    unused=("head.",),
    image_processor="SiglipImageProcessor",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    has_crop=False,
    known={
        "google/siglip-so400m-patch14-384": {**SO400M, "image_size": 384},
        "google/siglip-so400m-patch14-224": SO400M,
        "google/siglip-large-patch16-384": {**LARGE, "image_size": 384},
        "google/siglip-large-patch16-256": {**LARGE, "image_size": 256},
        "google/siglip-base-patch16-512": {"image_size": 512},
        "google/siglip-base-patch16-384": {"image_size": 384},
        "google/siglip-base-patch16-256": {"image_size": 256},
        "google/siglip-base-patch16-224": {},
    },
    hub_owners=(),
    own_folder="siglip_vision_tower",
    own_select_layer=-2,
)
