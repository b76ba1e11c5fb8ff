"""Print the table of docs/en/cards.md with the longest row that fits on a card, by method of training.

    python benchmarks/longest_rows.py

The estimates come from `paddlemix.doctor.memory`, without a model or a card: LLaVA 1.5 on eight cards in bfloat16 (O2),
with one row in a batch, an image in it and half of the other tokens trained. A tenth of each card stays free.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recipe_memory import VICUNAS, Start, config_of

from paddlemix.doctor.activations import Load
from paddlemix.doctor.memory import GIB, Trainable, estimate, outline
from paddlemix.image.anyres import num_image_tokens
from paddlemix.models.config import LlavaConfig
from paddlemix.train.arguments import ModelArguments
from paddlemix.train.settings import MemorySettings

NUM_CARDS = 8
SIZES = ("7B", "13B")
MEMORY = (32, 64)  # GiB
FREE = 0.1  # share of a card
STEP, MOST = 256, 65536  # tokens
SAMPLE = 2048  # tokens of each sample in a packed row
IMAGE_SIZE = (672, 672)  # (width, height)
HALF = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}
SAVING = {"recompute": True}
LORA = {"lora": True, "lora_rank": 128}
QLORA = {**LORA, "load_in_4bit": True}


class Way(NamedTuple):
    """A row of the table: name and settings, whether rows are packed of samples of SAMPLE tokens, and the card.

    Only packed rows differ between cards: the kernel of a CUDA card does not keep the weights of attention.
    """

    name: str
    settings: dict[str, Any]
    is_packed: bool = False
    device: str = "gpu"


def divided(degree: int) -> dict[str, Any]:
    """Return the settings of cards that share a decoder, in groups over which the optimizer's state is divided."""
    return {"tensor_parallel_degree": degree, **({"sharding": "stage1"} if degree < NUM_CARDS else {})}


WAYS = (
    Way("full, `stage2`", {"sharding": "stage2"}),
    Way("full, `stage2`, `recompute`", {"sharding": "stage2", **SAVING}),
    Way("full, `stage3`, `recompute`", {"sharding": "stage3", **SAVING}),
    Way("full, `stage3`, `recompute`, `packing`", {"sharding": "stage3", **SAVING}, True),
    Way("full, `stage3`, `recompute`, `packing`, on Ascend", {"sharding": "stage3", **SAVING}, True, "npu"),
    Way("full, `tensor_parallel_degree` 4 with `stage1`, `recompute`", {**divided(4), **SAVING}),
    Way("full, `tensor_parallel_degree` 8, `recompute`", {**divided(8), **SAVING}),
    Way("LoRA", LORA),
    Way("LoRA, `recompute`", {**LORA, **SAVING}),
    Way("LoRA, `recompute`, `packing`", {**LORA, **SAVING}, True),
    Way("LoRA, `recompute`, `packing`, on Ascend", {**LORA, **SAVING}, True, "npu"),
    Way("LoRA, `stage3`, `recompute`", {**LORA, "sharding": "stage3", **SAVING}),
    Way("LoRA, `tensor_parallel_degree` 2, `recompute`", {**LORA, **divided(2), **SAVING}),
    Way("LoRA, `tensor_parallel_degree` 8, `recompute`", {**LORA, **divided(8), **SAVING}),
    Way("LoRA over `load_in_4bit`, `recompute`", {**QLORA, **SAVING}),
    Way("LoRA over `load_in_4bit`, `recompute`, `packing`", {**QLORA, **SAVING}, True),
    Way(
        "LoRA over `load_in_4bit`, `recompute`, `packing`, on Ascend",
        {**QLORA, **SAVING},
        True,
        "npu",
    ),
)


@functools.cache
def start(size: str, has_lora: bool) -> tuple[LlavaConfig, Trainable]:
    """Return a model's config and what trains: the projector and the decoder, or the projector and adapters."""
    config = config_of(Start(VICUNAS), size)
    args = ModelArguments(lora=True, lora_rank=LORA["lora_rank"]) if has_lora else ModelArguments()
    return config, outline(config, args)


def load_of(config: LlavaConfig, length: int, is_packed: bool) -> Load:
    """Return a row of so many tokens: one sample with an image, or samples of SAMPLE tokens, each with an image."""
    count = max(length // SAMPLE, 1) if is_packed else 1
    image = num_image_tokens(IMAGE_SIZE, config.image)
    return Load((length // count,) * count, (length - image * count) // 2, count, image * count)


def longest(way: Way, size: str, gigabytes: int) -> int:
    """Return the tokens of the longest row that fits, a multiple of STEP, 0 if none does."""
    settings = {**HALF, **way.settings}
    config, trainable = start(size, "lora" in settings)
    method = MemorySettings.read(settings).method(way.device, NUM_CARDS)
    limit = gigabytes * GIB * (1 - FREE)
    step = SAMPLE if way.is_packed else STEP

    def fits(number: int) -> bool:
        load = load_of(config, number * step, way.is_packed)
        return estimate(config, trainable, load, method).total <= limit

    low, high = 1024 // step, MOST // step + 1  # a row has an image of 576 tokens and some text
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * step if low and fits(low) else 0


def table() -> str:
    """Return the table in Markdown."""
    columns = [(size, gigabytes) for size in SIZES for gigabytes in MEMORY]
    lines = ["| eight cards | " + " | ".join(f"{size}, {gigabytes} GiB" for size, gigabytes in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for way in WAYS:
        found = (longest(way, size, gigabytes) for size, gigabytes in columns)
        lines.append(f"| {way.name} | " + " | ".join(_cell(number) for number in found) + " |")
    return "\n".join(lines)


def _cell(number: int) -> str:
    return "no" if not number else f"over {MOST:,}" if number >= MOST else f"{number:,}"


if __name__ == "__main__":
    print(table())
