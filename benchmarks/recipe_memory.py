"""Print the README's table of the memory that the recipes need on each of eight cards.

    python benchmarks/recipe_memory.py

The estimates come from `paddlemix.doctor.memory`, without a model or a card. Rows of stage 1 have 700 tokens (an image
and its caption; 3,000 in v1.6). All other rows have max_length tokens and one image, the maximum of a batch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

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
CAPTION, CAPTION_TOKENS = "recipe_pretrain.json", 120
SIZES = {"7B": {}, "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
                           "num_attention_heads": 40}}  # fmt: skip
GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
IMAGE_SIZE = (672, 672)  # (width, height) with the most tiles and tokens
HEADER = """\
| recipe | trains | cards x batch x accumulated | weights | gradients | optimizer | activations | a CUDA card | a 910B |
|---|---|---|---|---|---|---|---|---|"""


def config_of(version: str, size: str) -> LlavaConfig:
    """Return the config of Vicuna with CLIP-L/336 and the image spec of a version."""
    image = {"mode": "anyres", "merge": "spatial_unpad", "grids": GRIDS} if version == "v1_6" else {"mode": "pad"}
    return LlavaConfig.from_dict(
        {"language": SIZES[size], "image": image, "has_image_newline": version == "v1_6", "dtype": "bfloat16"}
    )


def load_of(config: LlavaConfig, values: dict, is_caption: bool, is_padded: bool) -> Load:
    count, num_in_image = values["per_device_train_batch_size"], num_image_tokens(IMAGE_SIZE, config.image)
    length = num_in_image + CAPTION_TOKENS if is_caption else values["max_length"]
    trained = CAPTION_TOKENS if is_caption else (length - num_in_image) // 2
    tiles = num_tiles(IMAGE_SIZE, config.image)
    return Load((length,) * count, trained * count, tiles * count, num_in_image * count, is_padded)


def estimates(path: Path, size: str) -> tuple[Estimate, Estimate]:
    """Return the memory that a recipe needs on a CUDA card and on an Ascend card."""
    values = json.loads(path.read_text(encoding="utf-8"))
    config = config_of(path.parent.name, size)
    names = {item.name for item in dataclasses.fields(ModelArguments)}
    trainable = outline(config, ModelArguments(**{name: value for name, value in values.items() if name in names}))
    settings, is_caption = MemorySettings.read(values), path.name == CAPTION
    return tuple(
        estimate(config, trainable, load_of(config, values, is_caption, device == "npu"), settings.method(device, 8))
        for device in ("gpu", "npu")
    )


def table() -> str:
    """Return the table in Markdown."""
    lines = [HEADER]
    for path in sorted(CONFIGS.glob("*/recipe_*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        steps = f"{NUM_CARDS} x {values['per_device_train_batch_size']} x {values['gradient_accumulation_steps']}"
        for size in SIZES:
            cuda, ascend = estimates(path, size)
            parts = (cuda.weights, cuda.gradients, cuda.optimizer, sum(cuda.activations.values()))
            cells = [f"{number / GIB:.1f}" for number in (*parts, cuda.total, ascend.total)]
            name = f"`{path.relative_to(CONFIGS).as_posix()}` {size}"
            lines.append(f"| {name} | {cuda.num_trained / 1e6:,.0f} M | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
