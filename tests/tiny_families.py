"""Tiny LLaVA folders of the families that the recipes of seeds.md start from, with their templates' marks as tokens."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import tiny_folder

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.templates import IMAGE_MARKS, get_template
from paddlemix.models.config import LlavaConfig

FIRST = ("v1", "lightning", "mpt", "scienceqa")  # LLaVA's first version
MARKED = ("v1", "lightning", "mpt")  # with marks around an image
DECODERS = {
    "internlm": {"family": "internlm", "has_qkv_bias": True, "has_out_bias": True},
    "internlm2": {"family": "internlm2"},
    "phi3": {"family": "phi3"},
    "mpt": {
        "family": "mpt",
        "norm": "layer",
        "activation": "gelu",
        "is_gated": False,
        "positions": "alibi",
        "tie_word_embeddings": True,
    },
}
CLIP_LAYERS = 24  # as many as CLIP-L has, for recipes that adapt its layers by number
OWN_TEMPLATES = {"internlm": "internlm_chat", "internlm2": "internlm2_chat", "phi3": "phi_3", "llama3": "llama_3"}


@functools.cache
def tokenizer_folder() -> Path:
    """Return a folder whose vocabulary has the marks of the families' templates."""
    folder = tiny_folder.scratch() / "tokenizer"
    shutil.copytree(tiny_folder.tokenizer_folder(), folder)
    marks = {mark for name in (*OWN_TEMPLATES.values(), "mpt") for mark in get_template(name).special_tokens}
    marks |= set(IMAGE_MARKS)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = enumerate(sorted(marks - {"<s>", "</s>"}), start=tiny_folder.VOCAB_SIZE)
    settings["added_tokens_decoder"] = {str(index): {"content": mark, "special": True} for index, mark in added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@functools.cache
def tiny_model(name: str) -> Path:
    """Write a tiny LLaVA of the family that a folder of recipes starts from; return its folder."""
    folder, tokenizer = tiny_folder.scratch() / name, load_tokenizer(tokenizer_folder())
    values = {
        "language": {**tiny_folder.LANGUAGE, "vocab_size": tokenizer.vocab_size, **DECODERS.get(name, {})},
        "vision": {**tiny_folder.VISION, "num_hidden_layers": CLIP_LAYERS if "internlm" in name else 3},
        "image": tiny_folder.IMAGE_SPECS["pad"],
        "projector_type": "linear" if name in FIRST else "mlp2x_gelu",
        "eos_token_ids": [tokenizer.eos_id],
        "has_image_marks": name in MARKED,
    }
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(values))
    model.initialize_weights(0, std=tiny_folder.STD)
    model.save_pretrained(folder)
    template = get_template(OWN_TEMPLATES.get(name, "vicuna_v1"), has_image_marks=name in MARKED)
    LlavaProcessor(tokenizer, template, model.config.image).save_pretrained(folder)
    return folder
