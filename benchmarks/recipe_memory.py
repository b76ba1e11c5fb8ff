"""Print the tables of the memory that the recipes need on each card: for training.md or, with `seeds`, for seeds.md.

    python benchmarks/recipe_memory.py [seeds]

The estimates come from `paddlemix.doctor.memory`, without a model or a card. Rows of stage 1 have an image and a
caption of 120 tokens (400 in ShareGPT4V, whose captions are long). All other rows have max_length tokens and one image,
the maximum of a batch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paddlemix.device import prepare_environment  # noqa: E402

prepare_environment("cpu")

from paddlemix.doctor.activations import Load  # noqa: E402
from paddlemix.doctor.memory import GIB, Estimate, estimate, outline  # noqa: E402
from paddlemix.image.anyres import num_image_tokens, num_tiles  # noqa: E402
from paddlemix.models.config import LlavaConfig  # noqa: E402
from paddlemix.train.arguments import ModelArguments  # noqa: E402
from paddlemix.train.settings import MemorySettings  # noqa: E402

CONFIGS = ROOT / "paddlemix/config/llava"
NUM_CARDS = 8
ONE_CARD = "_one_card"  # ends the names of recipes for one card
CAPTION, CAPTION_TOKENS, LONG_CAPTION_TOKENS = "recipe_pretrain", 120, 400
GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ANYRES = {"image": {"mode": "anyres", "merge": "spatial_unpad", "grids": GRIDS}, "has_image_newline": True}
IMAGE_SIZE = (672, 672)  # (width, height) with the most tiles and tokens
HEADER = """\
| recipe | trains | cards x batch x accumulated | weights | gradients | optimizer | activations | a CUDA card | a 910B |
|---|---|---|---|---|---|---|---|---|"""


def decoder(width: int, inner: int, layers: int, heads: int, vocabulary: int = 32000, **more: Any) -> dict[str, Any]:
    """Return the values of a language model's config."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocabulary}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": heads, **more}


VICUNA_7B, VICUNA_13B = decoder(4096, 11008, 32, 32), decoder(5120, 13824, 40, 40)
INTERNLM = decoder(4096, 11008, 32, 32, 103168, family="internlm", has_qkv_bias=True, has_out_bias=True)
INTERNLM2 = decoder(4096, 14336, 32, 32, 92544, family="internlm2", num_key_value_heads=8)
PHI3 = decoder(3072, 8192, 32, 32, 32064, family="phi3")
LLAMA3 = decoder(4096, 14336, 32, 32, 128256, num_key_value_heads=8)
MPT = decoder(
    4096, 16384, 32, 32, 50432, family="mpt", norm="layer", activation="gelu", is_gated=False, positions="alibi",
    tie_word_embeddings=True,
)  # fmt: skip
# The first version: CLIP-L/14 on images of 224 x 224 px, and a linear projector.
FIRST = {"vision": {"image_size": 224}, "image": {"side": 224, "mode": "square"}, "projector_type": "linear"}
MARKED = {**FIRST, "has_image_marks": True}


class Start(NamedTuple):
    """The models that a folder of recipes starts from. decoders: configs by size. values: more of a LLaVA's config."""

    decoders: dict[str, dict[str, Any]]
    values: Mapping[str, Any] = MappingProxyType({})


VICUNAS = {"7B": VICUNA_7B, "13B": VICUNA_13B}
README_STARTS = {"v1_5": Start(VICUNAS), "v1_6": Start(VICUNAS, ANYRES)}
SEED_STARTS = {
    "cerebras": Start(VICUNAS),
    "internlm": Start({"7B": INTERNLM}),
    "internlm2": Start({"7B": INTERNLM2}),
    "lightning": Start({"7B": VICUNA_7B}, MARKED),
    "llama3": Start({"8B": LLAMA3}),
    "mpt": Start({"7B": MPT}, MARKED),
    "phi3": Start({"3.8B": PHI3}),
    "scienceqa": Start({"13B": VICUNA_13B}, FIRST),
    "v1": Start(VICUNAS, MARKED),
}


def config_of(start: Start, size: str) -> LlavaConfig:
    """Return the config of a start: its language model with CLIP-L."""
    image = {"mode": "pad", **start.values.get("image", {})}
    return LlavaConfig.from_dict(
        {"dtype": "bfloat16", **start.values, "language": start.decoders[size], "image": image}
    )


def num_cards_of(path: Path) -> int:
    return 1 if path.stem.endswith(ONE_CARD) else NUM_CARDS


def caption_tokens_of(path: Path) -> int:
    """Return the tokens of a caption in stage 1, 0 for recipes of stage 2."""
    if not path.stem.startswith(CAPTION):
        return 0
    return LONG_CAPTION_TOKENS if "sharegpt4v" in path.stem else CAPTION_TOKENS


def load_of(config: LlavaConfig, values: dict, num_in_caption: int, is_padded: bool) -> Load:
    count, num_in_image = values["per_device_train_batch_size"], num_image_tokens(IMAGE_SIZE, config.image)
    length = num_in_image + num_in_caption if num_in_caption else values["max_length"]
    trained = num_in_caption or (length - num_in_image) // 2
    tiles = num_tiles(IMAGE_SIZE, config.image)
    return Load((length,) * count, trained * count, tiles * count, num_in_image * count, is_padded)


def estimates(path: Path, config: LlavaConfig) -> tuple[Estimate, Estimate]:
    """Return the memory that a recipe needs on a CUDA card and on an Ascend card."""
    values = json.loads(path.read_text(encoding="utf-8"))
    names = {item.name for item in dataclasses.fields(ModelArguments)}
    trainable = outline(config, ModelArguments(**{name: value for name, value in values.items() if name in names}))
    settings, num_cards = MemorySettings.read(values), num_cards_of(path)
    return tuple(
        estimate(
            config,
            trainable,
            load_of(config, values, caption_tokens_of(path), device == "npu"),
            settings.method(device, num_cards),
        )
        for device in ("gpu", "npu")
    )


def table(starts: dict[str, Start]) -> str:
    """Return the table of the recipes of some folders in Markdown."""
    lines = [HEADER]
    for path in sorted(path for folder in starts for path in CONFIGS.glob(f"{folder}/recipe_*.json")):
        values, start = json.loads(path.read_text(encoding="utf-8")), starts[path.parent.name]
        numbers = num_cards_of(path), values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
        steps = " x ".join(map(str, numbers))
        for size in start.decoders:
            cuda, ascend = estimates(path, config_of(start, size))
            parts = (cuda.weights, cuda.gradients, cuda.optimizer, sum(cuda.activations.values()))
            cells = [f"{number / GIB:.1f}" for number in (*parts, cuda.total, ascend.total)]
            name = f"`{path.relative_to(CONFIGS).as_posix()}` {size}"
            lines.append(f"| {name} | {cuda.num_trained / 1e6:,.0f} M | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(SEED_STARTS if sys.argv[1:] == ["seeds"] else README_STARTS))
