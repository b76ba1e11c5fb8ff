"""A small LLaVA 1.6 with realistic shapes and random weights, and functions to load it on either side.

The decoder has the shapes of SmolLM2-135M (576 wide, 30 layers, 9 query heads and 3 key heads, vocabulary 49,152), the
tower those of CLIP ViT-B at 336 px with patches of 14 px (768 wide, 12 layers): 576 tokens per tile, up to 2,880 per
image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from children import run_child

DECODER = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
DECODER |= {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
DECODER |= {"max_position_embeddings": 16384}
TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
IMAGE_SIZE = (672, 672)  # (width, height): a grid of 2 x 2 tiles and the base image, 2,928 tokens


@contextmanager
def model_folder(folder: str | None) -> Iterator[str]:
    """Yield a folder with the model in transformers' layout, written by a separate process."""
    with tempfile.TemporaryDirectory(prefix="small-llava-") as temporary:
        folder = folder or temporary
        run_child(__file__, folder)
        yield folder


def make(folder: str, **changes) -> None:
    """Write the model. changes: fields of the decoder that differ from DECODER."""
    from pathlib import Path

    from synthetic import write_checkpoint

    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig

    decoder = LanguageConfig(**{**DECODER, **changes})
    config = LlavaConfig(decoder, VisionConfig(**TOWER), image=image_spec(), has_image_newline=True)
    write_checkpoint(Path(folder), "hf", config)


def load_ours(folder: str, threads: int):
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    from paddlemix import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder, dtype="float32", device="cpu")


def load_theirs(folder: str, threads: int):
    import torch
    from transformers import LlavaNextForConditionalGeneration

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return LlavaNextForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32).eval()


def decode_steps(engine, ids: list[int], num_steps: int) -> tuple[list[float], list[int]]:
    """Return the seconds of each decoding step after a prompt, and the tokens of the answer, one more."""
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.sequence import Ending, Sequence

    sampling = SamplingParams(max_new_tokens=num_steps + 1, ignore_eos=True)
    sequence, seconds = Sequence(ids, {}, sampling, num_steps + 1, Ending()), []
    engine.add(sequence)
    while sequence.is_open:
        start, number = time.perf_counter(), sequence.num_generated
        engine.step()
        if number:
            seconds.append(time.perf_counter() - start)
    return seconds, sequence.answer_ids


def image_spec():
    from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec

    return ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad")


def noise(seed: int = 0):
    """Return an image of noise."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIZE[1], IMAGE_SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def noise_tiles(seed: int = 0):
    """Return the preprocessed tiles of an image of noise."""
    from paddlemix.image.preprocess import preprocess

    return preprocess(noise(seed), image_spec())


def text_ids(num_tokens: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 49000, num_tokens).tolist()


if __name__ == "__main__":
    import sys

    make(sys.argv[1])
