"""Tiny untrained LLaVA folders in our own layout, pictures for them, and rows to train on."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, PATCH = 28, 7
PATCHES = (SIDE // PATCH) ** 2
CONTEXT = 512
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
IMAGE_SPECS = {
    "pad": {"side": SIDE, "patch_size": PATCH, "mode": "pad", "merge": "flat"},
    "anyres": {"side": SIDE, "patch_size": PATCH, "mode": "anyres", "merge": "spatial_unpad", "grids": GRIDS},
}
LANGUAGE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
VOCAB_SIZE = 420
SENTENCES = (
    "USER: What is this? ASSISTANT: It is a red square.",
    "USER: What colour is shape 3? ASSISTANT: It is yellow.",
    "USER: How many shapes? ASSISTANT: There are two shapes.",
    "USER: Where is the blue circle? ASSISTANT: On the left of the green star.",
    "A green triangle on the right.",
)  # what the vocabulary is made from
STD = 0.12  # wider than the usual 0.02, so that every token matters for the next one
SIZES = ((40, 30), (90, 30), (28, 28), (30, 100), (64, 50))  # (width, height)


def language_json(family: str, vocab_size: int) -> dict:
    """Return config.json of a decoder of any family with LANGUAGE's sizes, under that family's keys."""
    from paddlemix.models.language.families import FAMILIES

    keys = FAMILIES[family].keys
    values = {keys.get(name, name): value for name, value in {**LANGUAGE, "vocab_size": vocab_size}.items()}
    return {name: value for name, value in values.items() if name is not None}


@functools.cache
def folder(mode: str = "pad") -> Path:
    """Return a model folder with v1.5's ("pad") or v1.6's ("anyres") image spec, the same one all through a process."""
    output = _scratch() / mode
    make_folder(output, mode)
    return output


def make_folder(output: Path, mode: str, seed: int = 0) -> None:
    """Write a model folder whose weights, norms included, are drawn from a seed."""
    import paddle

    from paddlemix.checkpoints.processor import LlavaProcessor
    from paddlemix.conversation.templates import get_template
    from paddlemix.conversation.tokenizer import load_tokenizer
    from paddlemix.models.config import LlavaConfig
    from paddlemix.models.llava import LlavaForConditionalGeneration

    tokenizer = load_tokenizer(_tokenizer_folder())
    config = LlavaConfig.from_dict(
        {
            "language": {**LANGUAGE, "vocab_size": tokenizer.vocab_size},
            "vision": VISION,
            "image": IMAGE_SPECS[mode],
            "has_image_newline": mode == "anyres",
            "eos_token_ids": [tokenizer.eos_id],
        }
    )
    model = LlavaForConditionalGeneration(config)
    model.initialize_weights(seed, std=STD)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.set_value(paddle.uniform(parameter.shape, min=0.5, max=1.5))
    model.save_pretrained(output)
    LlavaProcessor(tokenizer, get_template("vicuna_v1"), config.image).save_pretrained(output)


def load(mode: str = "pad"):
    """Return a new model and its processor."""
    from paddlemix import LlavaForConditionalGeneration, LlavaProcessor

    return LlavaForConditionalGeneration.from_pretrained(folder(mode)), LlavaProcessor.from_pretrained(folder(mode))


def picture(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture of large random blocks; size is (width, height)."""
    blocks = np.random.default_rng(seed).integers(0, 256, [3, 3, 3], dtype=np.uint8)
    return Image.fromarray(blocks).resize(size or SIZES[seed % len(SIZES)], Image.Resampling.NEAREST)


def save_picture(path: Path, seed: int, size: tuple[int, int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    return path


COLOURS = ("red", "blue", "green", "yellow")


def write_rows(home: Path, num_rows: int = 8, kinds: str = "0123", is_answer_fixed: bool = False) -> Path:
    """Write train.json in LLaVA's form and its pictures; return its path.

    kinds: the number of pictures of each row, repeated. is_answer_fixed: all rows train equally many tokens.
    """
    rows = []
    for number in range(num_rows):
        names = [f"images/{number}-{place}.png" for place in range(int(kinds[number % len(kinds)]))]
        for place, name in enumerate(names):
            save_picture(home / name, 10 * number + place)
        colour = "red" if is_answer_fixed else COLOURS[number % 4]
        turns = [("human", "<image>\n" * len(names) + f"What colour is shape {number}?"), ("gpt", f"It is {colour}.")]
        if number % 2 and not is_answer_fixed:
            turns += [("human", "How many shapes?"), ("gpt", f"There are {number} shapes.")]
        row = {"conversations": [{"from": role, "value": value} for role, value in turns]}
        rows.append({**row, "image": names} if names else row)
    home.mkdir(parents=True, exist_ok=True)
    (home / "train.json").write_text(json.dumps(rows))
    return home / "train.json"


def write_captions(home: Path, num_rows: int = 8) -> Path:
    """Write pretrain.json, stage 1's pairs of a picture and its caption; return its path."""
    rows = []
    for number in range(num_rows):
        save_picture(home / f"images/{number}.png", number)
        caption = f"A {COLOURS[number % 4]} square on the left."
        rows.append({"image": f"images/{number}.png", "conversations": [["<image>", caption]]})
    (home / "pretrain.json").write_text(json.dumps(rows))
    return home / "pretrain.json"


def _scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="tiny-llava-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _tokenizer_folder() -> Path:
    from paddlemix.conversation.templates import get_template
    from paddlemix.examples.llava.tiny.make_tokenizer import write_tokenizer

    home = _scratch()
    write_tokenizer(home, [get_template("vicuna_v1").system, *SENTENCES] * 20, VOCAB_SIZE)
    return home
