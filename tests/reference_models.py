"""Tiny random transformers models, saved like users' folders, and batches for them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    Ernie4_5Config,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    MptConfig,
    Phi3Config,
    Qwen2Config,
    SiglipVisionConfig,
)

from paddlemix.constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from paddlemix.data.sample import Batch
from paddlemix.image.anyres import num_image_tokens, num_tiles
from paddlemix.image.spec import ImageSpec

torch.set_num_threads(1)  # with more threads beside paddle's, each small matrix product waits for milliseconds

SIDE, PATCH = 28, 7
IMAGE_TOKEN = 98
IS_VERSION_5 = int(transformers.__version__.split(".")[0]) >= 5
# transformers 5 records no hidden state before the first layer, and its LLaVA fails with layer 0.
FEATURE_LAYERS = (-1, -3, 2) if IS_VERSION_5 else (-1, -3, 0, 2)
# (height, width), as in transformers; at most three tiles per side.
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


TEXT_CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "phi3": Phi3Config,
    "mpt": MptConfig,
    "gemma": GemmaConfig,
    "ernie4_5": Ernie4_5Config,
}
# MPT's names for the sizes below. It has no separate number of key-value heads, no RoPE base and a fixed MLP width.
MPT_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len",
    "rms_norm_eps": "layer_norm_epsilon",
    "tie_word_embeddings": "tie_word_embeddings",
}
TOWER_CONFIGS = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}


def text_config(family: str = "llama", **changes):
    values = {
        "vocab_size": 99,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_theta": 5000.0,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    if family == "mpt":
        values = {name: values[ours] for ours, name in MPT_NAMES.items()} | {"tie_word_embeddings": True}
    if family in ("gemma", "ernie4_5"):
        values |= {"tie_word_embeddings": True, "head_dim": 16}
    return TEXT_CONFIGS[family](**{**values, **copy.deepcopy(changes)})  # version 5 modifies the caller's objects


def vision_config(kind: str = "clip", **changes):
    values = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        **({"projection_dim": 32} if kind == "clip" else {}),
    }
    return TOWER_CONFIGS[kind](**{**values, **changes})


def hf_model(is_next: bool, seed: int = 0, strategy: str = "default", vision: dict | None = None, **text_changes):
    """Return a seeded random LLaVA 1.5 or 1.6 of transformers, in float32 on the CPU.

    strategy: "full" keeps the class token. vision, text_changes: values to change in the two configs, including the
    kind of the tower and the family of the decoder. The canvases of 1.6 are PINPOINTS, scaled to the tower's size.
    """
    torch.manual_seed(seed)
    side = (vision or {}).get("image_size", SIDE)
    pinpoints = [[edge // SIDE * side for edge in pair] for pair in PINPOINTS]
    shared = {
        "vision_config": vision_config(**(vision or {})),
        "text_config": text_config(**text_changes),
        "image_token_index": IMAGE_TOKEN,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": strategy,
        "tie_word_embeddings": text_config(**text_changes).tie_word_embeddings,
    }
    if is_next:
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=pinpoints, **shared))
        torch.nn.init.normal_(model.model.image_newline)
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(image_seq_length=(SIDE // PATCH) ** 2, **shared))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:  # larger than the usual 0.02, so that attention is not flat and answers vary
            torch.nn.init.normal_(parameter, std=0.16)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif "language_model" in name or "patch_embedding" in name:  # biases
            torch.nn.init.normal_(parameter, std=0.5)
    model.generation_config.eos_token_id = None
    return model.eval()


def save_hf(model, folder, is_next: bool, **options):
    """Save with `save_pretrained` and add the image processor's file; return the folder."""
    model.save_pretrained(folder, safe_serialization=True, **options)
    side = model.config.vision_config.image_size
    processor = {
        "image_processor_type": "LlavaNextImageProcessor" if is_next else "CLIPImageProcessor",
        "crop_size": {"height": side, "width": side},
        "size": {"shortest_edge": side},
        "image_grid_pinpoints": model.config.image_grid_pinpoints if is_next else PINPOINTS,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def random_ids(rng: np.random.Generator, length: int) -> list[int]:
    """Return random ids that exclude special tokens and the image token."""
    return rng.integers(3, 97, size=length).tolist()


def make_batch(rng: np.random.Generator, rows: Sequence[Sequence], spec: ImageSpec, with_labels: bool = False) -> Batch:
    """Return a right-padded batch with random ids and pixels.

    Each part of a row is a number of text tokens, or the (width, height) of an image. With labels, about two thirds of
    the text tokens are trained.
    """
    ids, sizes = [], []
    for row in rows:
        ids.append([1])
        for part in row:
            is_image = isinstance(part, tuple)
            ids[-1] += [IMAGE_TOKEN_ID] * num_image_tokens(part, spec) if is_image else random_ids(rng, part)
            sizes += [part] if is_image else []
    length = max(map(len, ids))
    token_ids = np.array([row + [0] * (length - len(row)) for row in ids])
    segments = np.array([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    positions = np.tile(np.arange(length), (len(ids), 1))
    is_trained = (segments > 0) & (token_ids != IMAGE_TOKEN_ID) & (rng.random(token_ids.shape) < 0.67)
    labels = np.where(is_trained, token_ids, IGNORE_INDEX) if with_labels else None
    if not sizes:
        return Batch(token_ids, labels, positions, segments)
    counts = np.array([num_tiles(size, spec) for size in sizes])
    pixels = rng.standard_normal((counts.sum(), 3, spec.side, spec.side)).astype(np.float32)
    return Batch(token_ids, labels, positions, segments, pixels, counts, np.array(sizes))


def hf_inputs(batch: Batch, is_next: bool) -> dict[str, torch.Tensor]:
    """Return the inputs of transformers' forward: its image token, equal numbers of tiles, sizes as (height, width)."""
    ids = np.where(batch.token_ids == IMAGE_TOKEN_ID, IMAGE_TOKEN, batch.token_ids)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor((batch.segment_ids > 0).astype(np.int64))}
    if batch.labels is not None:
        inputs["labels"] = torch.tensor(batch.labels)
    if batch.pixels is None:
        return inputs
    if not is_next:
        return {**inputs, "pixel_values": torch.tensor(batch.pixels)}
    most = batch.tiles_per_image.max()
    tiles = np.zeros((len(batch.tiles_per_image), most, *batch.pixels.shape[1:]), np.float32)
    for place, part in zip(tiles, np.split(batch.pixels, np.cumsum(batch.tiles_per_image)[:-1]), strict=True):
        place[: len(part)] = part
    sizes = torch.tensor(batch.image_sizes[:, ::-1].copy())
    return {**inputs, "pixel_values": torch.tensor(tiles), "image_sizes": sizes}


def hf_logits(model, batch: Batch, is_next: bool) -> np.ndarray:
    """Return transformers' logits float32 [B, T, vocab]."""
    with torch.no_grad():
        return model(**hf_inputs(batch, is_next)).logits.numpy()


# Parts of transformers' tensor names (in memory, 4.52 and later) and of PaddleMIX's, in the order of replacement.
PADDLEMIX_NAMES = (
    ("model.vision_tower.vision_model.", "model.vision_tower."),  # version 5 has no module in between
    ("model.vision_tower.", "llama.vision_tower.vision_tower.vision_model."),
    ("embeddings.patch_embedding", "conv1"),
    ("embeddings.position_embedding", "positional_embedding"),
    ("embeddings.class_embedding", "class_embedding"),
    ("pre_layrnorm", "ln_pre"),
    ("vision_model.post_layernorm", "vision_model.ln_post"),
    ("encoder.layers", "transformer.layers"),
    ("mlp.fc", "linear"),
    ("layer_norm", "norm"),
    ("multi_modal_projector.linear_1", "multi_modal_projector.0"),
    ("multi_modal_projector.linear_2", "multi_modal_projector.2"),
    ("model.multi_modal_projector", "llama.mm_projector"),
    ("model.language_model.", "llama."),
    ("model.image_newline", "llama.image_newline"),
)


def paddlemix_state(model) -> dict[str, np.ndarray]:
    """Return a model's tensors under PaddleMIX's names and in its layout (matrices of linear layers as [in, out])."""
    state = {}
    for name, tensor in model.state_dict().items():
        is_linear = tensor.ndim == 2 and "embed" not in name
        for theirs, paddlemix in PADDLEMIX_NAMES:
            name = name.replace(theirs, paddlemix)
        state[name] = np.ascontiguousarray(tensor.numpy().T if is_linear else tensor.numpy())
    return state


def paddlemix_config(model, **changes) -> dict:
    """Return PaddleMIX's flat config.json for a transformers model; a change to None removes the key."""
    text = model.config.text_config.to_dict()
    text |= text.get("rope_parameters") or {}  # version 5 keeps rope_theta there
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings")
    values = {name: text[name] for name in kept}
    values |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "paddlenlp_version": "3.0.0b4",
        "dtype": "float32",
        "mm_vision_tower": "an unknown tower",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": model.config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        "pretrain_mm_mlp_adapter": None,
        "pretraining_tp": 1,
    }
    values |= {"eos_token_id": 2, "bos_token_id": 1, **changes}
    return {name: value for name, value in values.items() if value is not None}


def write_paddlemix_json(folder, config: dict, grids: Sequence | None = None) -> None:
    """Write config.json, and the image processor's file where PaddleMIX keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "size": {"shortest_edge": SIDE}}
    processor |= {} if grids is None else {"image_grid_pinpoints": grids}
    (folder / "processor" / "eval").mkdir(parents=True)
    (folder / "processor" / "eval" / "preprocessor_config.json").write_text(json.dumps(processor))
