"""The settings that decide how much memory a run needs, out of a configuration. Without paddle."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from ..train.bounds import check_bounds
from ..train.config_file import convert
from .memory import Method


@dataclass(frozen=True)
class MemorySettings:
    """Keys of a run; names and defaults are those of `arguments` and of paddlenlp."""

    fp16: bool = False
    bf16: bool = False
    fp16_opt_level: str = "O1"
    amp_master_grad: bool = False
    recompute: bool = False
    sharding: str | list = ""
    sharding_parallel_degree: int = -1
    lora: bool = False
    lora_rank: int = 8
    lora_dropout: float = 0.05
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    per_device_train_batch_size: int = 8

    @classmethod
    def read(cls, values: dict[str, Any]) -> MemorySettings:
        """Take what is here of a run's values. Raises ValueError for a value of the wrong type."""
        hints = typing.get_type_hints(cls)
        names = [item.name for item in dataclasses.fields(cls)]
        own = {name: convert(name, values[name], hints[name]) for name in names if values.get(name) is not None}
        check_bounds(own)
        return cls(**own)

    def method(self, device: str, num_cards: int, has_half: bool = True) -> Method:
        """Return how num_cards of a kind train. has_half: they compute in 16 bits where that is asked for."""
        dtype = "float16" if self.fp16 else "bfloat16"
        is_half = has_half and (self.fp16 or self.bf16)
        words = self.sharding.split() if isinstance(self.sharding, str) else [str(word) for word in self.sharding]
        stage = max((int(word.removeprefix("stage")) for word in words if word.startswith("stage")), default=0)
        degree = self.sharding_parallel_degree if self.sharding_parallel_degree > 0 else num_cards
        is_sharded = num_cards > 1 and stage > 0
        return Method(
            dtype=dtype if is_half else "float32",
            is_half_stored=is_half and self.fp16_opt_level == "O2",
            has_float_gradients=is_half and self.amp_master_grad,
            is_recomputed=self.recompute,
            base_bits=4 if self.load_in_4bit else 8 if self.load_in_8bit else None,
            lora_rank=self.lora_rank if self.lora else 0,
            has_lora_dropout=self.lora and self.lora_dropout > 0,
            sharding=stage if is_sharded else 0,
            num_shards=min(degree, num_cards) if is_sharded else 1,
            is_offloaded=is_sharded and "offload" in words,
            device=device.split(":")[0],
        )
