"""A LLaVA with a LLaMA-type decoder of 135M parameters and random weights, for benchmarks of generation.

576 wide, 30 layers, 9 heads over 3, vocabulary 49,152, tied; a small ViT that gives 576 image tokens a picture. Written
once to a folder in the layout of transformers, and read from there by both sides, so that the weights are the same.
"""

from __future__ import annotations

from pathlib import Path

from children import run_child

LANGUAGE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
LANGUAGE |= {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
LANGUAGE |= {"max_position_embeddings": 4096}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 336, "patch_size": 14}
NUM_IMAGE_TOKENS = 576
IDS = (3, 49000)  # drawn from


def make(folder: Path) -> None:
    """Write the model in a process of its own."""
    run_child(__file__, str(folder))


def write(folder: Path) -> None:
    from synthetic import write_checkpoint

    from paddlemix.image.spec import ImageSpec
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig

    image = ImageSpec(side=336, patch_size=14)
    language, vision = LanguageConfig(**LANGUAGE), VisionConfig(**VISION)
    write_checkpoint(folder, "hf", LlavaConfig(language, vision, image=image, dtype="float32", eos_token_ids=(2,)))


def load_ours(folder: str):
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    from paddlemix import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder, dtype="float32", device="cpu")


def load_theirs(folder: str, threads: int):
    import torch
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(threads)
    model = LlavaForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # answers have a fixed length
    return model


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
