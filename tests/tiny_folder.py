"""Tiny untrained LLaVA folders in this package's layout, images for them, and rows to train on."""

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
)  # the text that the vocabulary is trained on
STD = 0.12  # larger than the usual 0.02, so that every token influences the next one
SIZES = ((40, 30), (90, 30), (28, 28), (30, 100), (64, 50))  # (width, height)


def language_json(family: str, vocab_size: int) -> dict:
    """Return the config.json of a decoder of this family with the sizes of LANGUAGE, under the family's keys."""
    from paddlemix.models.language.families import FAMILIES

    keys = FAMILIES[family].keys
    values = {keys.get(name, name): value for name, value in {**LANGUAGE, "vocab_size": vocab_size}.items()}
    return {name: value for name, value in values.items() if name is not None}


@functools.cache
def folder(mode: str = "pad") -> Path:
    """Return a model folder with the image spec of v1.5 ("pad") or v1.6 ("anyres"), made once per process."""
    output = scratch() / mode
    make_folder(output, mode)
    return output


def make_folder(output: Path, mode: str, seed: int = 0, **language) -> None:
    """Write a model folder whose weights, norms included, are drawn with a seed. language: changes of LANGUAGE."""
    import paddle

    from paddlemix import LlavaForConditionalGeneration
    from paddlemix.checkpoints.processor import LlavaProcessor
    from paddlemix.conversation.load_tokenizer import load_tokenizer
    from paddlemix.conversation.templates import get_template
    from paddlemix.models.config import LlavaConfig

    tokenizer = load_tokenizer(tokenizer_folder())
    config = LlavaConfig.from_dict(
        {
            "language": {**LANGUAGE, "vocab_size": tokenizer.vocab_size, **language},
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


def random_image(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Return an image of large random blocks; size is (width, height)."""
    blocks = np.random.default_rng(seed).integers(0, 256, [3, 3, 3], dtype=np.uint8)
    return Image.fromarray(blocks).resize(size or SIZES[seed % len(SIZES)], Image.Resampling.NEAREST)


def save_image(path: Path, seed: int, size: tuple[int, int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(seed, size).save(path)
    return path


COLORS = ("red", "blue", "green", "yellow")


def write_rows(folder: Path, num_rows: int = 8, kinds: str = "0123", is_answer_fixed: bool = False) -> Path:
    """Write train.json in LLaVA's format and its images; return its path.

    kinds: the number of images of each row, repeated. is_answer_fixed: all rows train equally many tokens.
    """
    rows = []
    for number in range(num_rows):
        names = [f"images/{number}-{index}.png" for index in range(int(kinds[number % len(kinds)]))]
        for index, name in enumerate(names):
            save_image(folder / name, 10 * number + index)
        color = "red" if is_answer_fixed else COLORS[number % 4]
        turns = [("human", "<image>\n" * len(names) + f"What colour is shape {number}?"), ("gpt", f"It is {color}.")]
        if number % 2 and not is_answer_fixed:
            turns += [("human", "How many shapes?"), ("gpt", f"There are {number} shapes.")]
        row = {"conversations": [{"from": role, "value": value} for role, value in turns]}
        rows.append({**row, "image": names} if names else row)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text(json.dumps(rows))
    return folder / "train.json"


def write_captions(folder: Path, num_rows: int = 8) -> Path:
    """Write pretrain.json, the image and caption pairs of stage 1; return its path."""
    rows = []
    for number in range(num_rows):
        save_image(folder / f"images/{number}.png", number)
        caption = f"A {COLORS[number % 4]} square on the left."
        rows.append({"image": f"images/{number}.png", "conversations": [["<image>", caption]]})
    (folder / "pretrain.json").write_text(json.dumps(rows))
    return folder / "pretrain.json"


def scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="tiny-llava-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def tokenizer_folder() -> Path:
    from paddlemix.conversation.templates import get_template
    from paddlemix.examples.llava.tiny.make_tokenizer import write_tokenizer

    folder = scratch()
    write_tokenizer(folder, [get_template("vicuna_v1").system, *SENTENCES] * 20, VOCAB_SIZE)
    return folder
