"""A LLaMA-type tokenizer trained on a few sentences, and small images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from PIL import Image

from paddlemix.image.spec import ImageSpec

TEXT = """A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,
and polite answers to the user's questions. USER: What is in the picture? ASSISTANT: A red square and a blue circle.
How many shapes are there? Two. Describe the image. The sky is blue and the grass is green. Hello, who are you?"""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join([TEXT] * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        minloglevel=2,
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    from paddlemix.conversation.load_tokenizer import load_tokenizer

    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def template():
    from paddlemix.conversation.templates import get_template

    return get_template("vicuna_v1")


@pytest.fixture(scope="session")
def spec() -> ImageSpec:
    """A tile of 2 x 2 patches, and canvases of two to four tiles."""
    grids = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
    return ImageSpec(side=28, patch_size=14, mode="anyres", grids=grids, merge="spatial_unpad")


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with a.png 40x40, b.png 100x30 and c.png 30x90 (width x height)."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (width, height) in {"a": (40, 40), "b": (100, 30), "c": (30, 90)}.items():
        pixels = generator.integers(0, 256, [height, width, 3], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def write(tmp_path):
    """Return a function that writes rows to a .json or .jsonl file and returns its path."""

    def write_rows(name: str, rows, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows] if name.endswith(".jsonl") else [json.dumps(rows)]
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write_rows
