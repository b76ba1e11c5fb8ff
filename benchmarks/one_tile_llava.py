"""The model of small_llava.py as a LLaVA 1.5: an image is one tile of 576 tokens. Random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from children import run_child
from small_llava import DECODER, TOWER, noise

NUM_IMAGE_TOKENS = 576


@contextmanager
def model_folder(folder: str | None) -> Iterator[str]:
    """Yield a folder with the model in transformers' layout, written by a separate process."""
    with tempfile.TemporaryDirectory(prefix="one-tile-llava-") as temporary:
        folder = folder or temporary
        run_child(__file__, folder)
        yield folder


def make(folder: str) -> None:
    from pathlib import Path

    from synthetic import write_checkpoint

    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig

    config = LlavaConfig(LanguageConfig(**DECODER), VisionConfig(**TOWER), image=image_spec())
    write_checkpoint(Path(folder), "hf", config)


def load_theirs(folder: str, threads: int):
    import torch
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return LlavaForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32).eval()


def image_spec():
    from paddlemix.image.spec import ImageSpec

    return ImageSpec(mode="pad")


def noise_tile(seed: int):
    """Return the preprocessed tile of an image of noise."""
    from paddlemix.image.preprocess import preprocess

    return preprocess(noise(seed), image_spec())


if __name__ == "__main__":
    import sys

    make(sys.argv[1])
