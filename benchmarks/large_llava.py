"""A LLaVA 1.5 of a released size with random weights: its shapes, what its weights take, and its folder.

The shapes are those of liuhaotian/llava-v1.5-7b and -13b with CLIP ViT-L/14 at 336 px. `tiny` has small ones, for tests
of the benchmark itself. The folder has LLaVA's own layout in float16. Its tokenizer is the bundled one, padded.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "paddlemix/examples/llava/tiny/model"
VOCABULARY = "tokenizer.model"
# Width, width of the MLP, layers and heads of the decoder.
DECODERS = MappingProxyType({"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40), "tiny": (128, 384, 2, 4)})
TINY_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
VOCAB_SIZE, TINY_VOCAB_SIZE = 32000, 800
EOS_ID = 2
BITS = MappingProxyType({"int8": 8, "nf4": 4 + 8 / 64})  # of a code, with the 8 bits of its block's scale


def config_of(shape: str):
    """Return the config of a shape."""
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig

    width, inner, num_layers, num_heads = DECODERS[shape]
    language = LanguageConfig(
        vocab_size=TINY_VOCAB_SIZE if shape == "tiny" else VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
    )
    vision = VisionConfig(**(TINY_TOWER if shape == "tiny" else {}))
    return LlavaConfig(language, vision, dtype="float16", eos_token_ids=(EOS_ID,))


def stored_bytes(shape: str) -> int:
    """Return the bytes of the weights on disk."""
    return 2 * sum(_sizes(shape).values())


def kept_bytes(shape: str, kind: str | None) -> int:
    """Return the bytes of a loaded model: codes of a kind for the decoder's linear layers, float32 for the rest."""
    from paddlemix.checkpoints.quantized import QUANTIZED_NAME

    def bits(name: str) -> float:
        return BITS[kind] if kind and QUANTIZED_NAME.fullmatch(name) else 32

    return math.ceil(sum(size * bits(name) / 8 for name, size in _sizes(shape).items()))


def cached_bytes(shape: str, num_positions: int) -> int:
    """Return the bytes of the keys and values of so many positions, in float32."""
    width, _, num_layers, _ = DECODERS[shape]
    return 2 * 4 * width * num_layers * num_positions


def _sizes(shape: str) -> dict[str, int]:
    from paddlemix.checkpoints.layouts.shapes import parameter_shapes

    return {name: math.prod(sides) for name, sides in parameter_shapes(config_of(shape)).items()}


def make(shape: str, folder: Path) -> None:
    """Write the model, shard by shard; weights are drawn from a seed for each tensor when it is written."""
    from synthetic import write_checkpoint

    config = config_of(shape)
    write_checkpoint(folder, "official", config)
    pieces = b"".join(_pieces(config.language.vocab_size))
    (folder / VOCABULARY).write_bytes((BUNDLED / VOCABULARY).read_bytes() + pieces)
    shutil.copyfile(BUNDLED / "tokenizer_config.json", folder / "tokenizer_config.json")


def _pieces(size: int) -> Iterator[bytes]:
    """Yield the pieces that a vocabulary of this size has after the bundled ones, encoded for its file.

    protobuf adds repeated fields that are appended to a file. A piece is field 1: {1: text, 2: score}.
    """
    import sentencepiece

    first = sentencepiece.SentencePieceProcessor(model_file=str(BUNDLED / VOCABULARY)).get_piece_size()
    for number in range(first, size):
        text = f"\u2581word{number}".encode()
        score = b"\x15\x00\x00\xc8\xc2"  # -100: a text is never split into these
        piece = b"\x0a" + bytes([len(text)]) + text + score
        yield b"\x0a" + bytes([len(piece)]) + piece
