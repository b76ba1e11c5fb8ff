"""The settings that commands read without paddle and paddlenlp: the data of a run, its steps, and its use of memory.

Names and defaults are those of `arguments` and of paddlenlp's TrainingArguments.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import dataclass, field
from typing import Any

from ..constants import DTYPE_BYTES
from ..data.bad_rows import BadRowPolicy
from ..data.mixture import parse_entries
from .bounds import check_bounds
from .config_file import convert
from .foreign_settings import check_foreign

MISTYPED = 0.8  # similarity from which an unknown name counts as a mistyped setting
OTHER_DEGREES = tuple(f"{kind}_parallel_degree" for kind in ("sep", "context", "expert", "expert_tensor"))
NOT_MISTYPED = (
    "text_model_name_or_path",
    "eval_accumulation_steps",
    *OTHER_DEGREES,
)  # of training, and nearly names of the data


def trains(do_train: bool | None, do_eval: bool | None) -> bool:
    """Return whether a run trains. Without do_train it does, unless do_eval is true."""
    return not do_eval if do_train is None else do_train


def check_work(do_train: bool, do_eval: bool) -> None:
    """Raise ValueError for a run that neither trains nor evaluates."""
    if not (do_train or do_eval):
        raise ValueError(
            "do_train is false and do_eval is not true: nothing would be done; leave do_train out to train, or set "
            "do_eval: true to evaluate"
        )


def num_card_parts(degree: int, num_cards: int) -> int:
    """Return how many cards share a decoder; a single card ignores the degree. Raises ValueError where they cannot."""
    degree = max(degree, 1) if num_cards > 1 else 1
    if num_cards % degree:
        raise ValueError(
            f"tensor_parallel_degree is {degree}, and there are {num_cards} processes, not a multiple of it: start the "
            f"run with `python -m paddle.distributed.launch --nproc_per_node {degree}` or more, or leave it out"
        )
    return degree


class _Settings:
    @classmethod
    def read(cls, values: dict[str, Any]) -> Any:
        """Take these settings from a run's values; a value of None keeps the default.

        Raises ValueError for a value of the wrong type or out of bounds.
        """
        hints = typing.get_type_hints(cls)
        chosen = {name: convert(name, values[name], hints[name]) for name in hints if values.get(name) is not None}
        check_bounds(chosen)
        return cls(**chosen)


@dataclass(frozen=True)
class DataArguments:
    """The data of a run, and how its rows are used."""

    dataset: dict | list | str | None = field(
        default=None, metadata={"help": 'the rows: a file, or {"train": [...], "eval": [...]} (required)'}
    )
    image_folder: str | None = field(default=None, metadata={"help": "folder that relative image paths start from"})
    max_length: int = field(default=2048, metadata={"help": "maximum tokens of a sample, image tokens included"})
    mixtoken: bool = field(default=False, metadata={"help": "PaddleMIX's name of packing"})
    packing: bool = field(default=False, metadata={"help": "put several samples into a row of max_length tokens"})
    on_bad_sample: str | None = field(
        default=None,
        metadata={"help": "raise or skip (default: wrong rows raise, bad images and too long rows are skipped)"},
    )
    max_bad_samples: int | float | None = field(
        default=None, metadata={"help": "rows that may be skipped, a share if below 1 (default: 1%, at least 10)"}
    )

    eval_tasks: list[dict] | None = field(
        default=None,
        metadata={"help": 'benchmarks to answer at each evaluation: [{"task": "custom", "data_dir": "a.jsonl"}]'},
    )

    @property
    def has_eval_rows(self) -> bool:
        """Whether an evaluation reads an eval split; it may be left out where there are eval_tasks."""
        return not self.eval_tasks or bool(parse_entries(self.dataset, "eval"))

    @property
    def policy(self) -> BadRowPolicy:
        return BadRowPolicy(self.on_bad_sample, self.max_bad_samples)

    @property
    def is_packed(self) -> bool:
        return self.mixtoken or self.packing


@dataclass(frozen=True)
class DataSettings(DataArguments, _Settings):
    """The settings that decide which rows a run reads, and in how many steps."""

    model_name_or_path: str | None = None
    conv_mode: str | None = None
    version: str | None = None
    seed: int = 42
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    dataloader_drop_last: bool = False
    do_train: bool | None = None
    do_eval: bool | None = None
    evaluation_strategy: str = "no"
    tensor_parallel_degree: int = -1

    @classmethod
    def read(cls, values: dict[str, Any]) -> DataSettings:
        """Take these settings from a run's values, which have many others, that only training knows.

        Raises ValueError for a value of the wrong type or out of bounds, for a name that is nearly one of these, and
        for another project's.
        """
        check_foreign(values)
        names = list(cls.__dataclass_fields__)
        for key in values:
            near = difflib.get_close_matches(key, names, n=1, cutoff=MISTYPED)
            if near and key not in names and key not in NOT_MISTYPED:
                raise ValueError(f"unknown setting {key!r}: did you mean {near[0]!r}?")
        return super().read(values)

    @property
    def split(self) -> str:
        """The split that is read first. Raises ValueError where a run would read none."""
        if trains(self.do_train, self.do_eval):
            return "train"
        check_work(False, self.do_eval or self.evaluation_strategy != "no")
        return "eval"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a run reads."""
        is_evaluated = (self.do_eval or self.evaluation_strategy != "no") and self.has_eval_rows
        return ("train",) * trains(self.do_train, self.do_eval) + ("eval",) * is_evaluated

    def steps(self, num_rows: int, num_processes: int) -> tuple[int, int]:
        """Return the optimizer steps of an epoch and of the whole run.

        The rows are dealt as `train.loader.EpochBatchSampler` does it: every process gets the same number, and an epoch
        ends with a whole step. An epoch of fewer batches than are accumulated is one step.
        """
        num_processes //= num_card_parts(self.tensor_parallel_degree, num_processes)  # the cards of a part share rows
        num_each, batch_size = -(-num_rows // num_processes), self.per_device_train_batch_size
        num_batches = num_each // batch_size if self.dataloader_drop_last else -(-num_each // batch_size)
        num_steps = max(num_batches // self.gradient_accumulation_steps, 1)
        return num_steps, self.max_steps if self.max_steps > 0 else int(num_steps * self.num_train_epochs)


@dataclass(frozen=True)
class Method:
    """How a run trains, as far as its memory depends on it.

    dtype: of the computations. is_half_stored: the weights have it too (fp16_opt_level O2). has_float_gradients:
    amp_master_grad. base_bits: 4 or 8 if a frozen decoder is quantized to so many bits. lora_rank: 0 without adapters.
    vision_lora_rank: of the adapters in the vision tower, None for lora_rank.
    sharding: stage 0 to 3, over num_shards cards. num_parts: cards that share a decoder. device: "gpu", "npu" or "cpu".
    """

    dtype: str = "float32"
    is_half_stored: bool = False
    has_float_gradients: bool = False
    is_recomputed: bool = False
    base_bits: int | None = None
    lora_rank: int = 0
    vision_lora_rank: int | None = None
    has_lora_dropout: bool = False
    sharding: int = 0
    num_shards: int = 1
    num_parts: int = 1
    is_offloaded: bool = False
    device: str = "cpu"

    @property
    def weight_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype if self.is_half_stored else "float32"]

    def rank_of(self, name: str) -> int:
        """Return the rank of a layer's adapter, by the layer's name."""
        is_in_tower = name.startswith("vision_tower.")
        return self.vision_lora_rank if is_in_tower and self.vision_lora_rank else self.lora_rank


@dataclass(frozen=True)
class MemorySettings(_Settings):
    """The settings that decide how much memory a run needs."""

    fp16: bool = False
    bf16: bool = False
    fp16_opt_level: str = "O1"
    amp_master_grad: bool = False
    recompute: bool = False
    sharding: str | list = ""
    sharding_parallel_degree: int = -1
    tensor_parallel_degree: int = -1
    lora: bool = False
    lora_rank: int = 8
    vision_lora_rank: int | None = None
    lora_dropout: float = 0.05
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    per_device_train_batch_size: int = 8

    def method(self, device: str, num_cards: int, has_half: bool = True) -> Method:
        """Return how num_cards devices train. has_half: they compute in 16 bits where the settings ask for it.

        Raises ValueError for a tensor_parallel_degree that they cannot have.
        """
        is_half = has_half and (self.fp16 or self.bf16)
        words = self.sharding.split() if isinstance(self.sharding, str) else [str(word) for word in self.sharding]
        stage = max((int(word.removeprefix("stage")) for word in words if word.startswith("stage")), default=0)
        num_parts = num_card_parts(self.tensor_parallel_degree, num_cards)
        num_ranks = num_cards // num_parts
        degree = self.sharding_parallel_degree if self.sharding_parallel_degree > 0 else num_ranks
        is_sharded = num_ranks > 1 and stage > 0
        return Method(
            dtype="float32" if not is_half else "float16" if self.fp16 else "bfloat16",
            is_half_stored=is_half and self.fp16_opt_level == "O2",
            has_float_gradients=is_half and self.amp_master_grad,
            is_recomputed=self.recompute,
            base_bits=4 if self.load_in_4bit else 8 if self.load_in_8bit else None,
            lora_rank=self.lora_rank if self.lora else 0,
            vision_lora_rank=self.vision_lora_rank if self.lora else None,
            has_lora_dropout=self.lora and self.lora_dropout > 0,
            sharding=stage if is_sharded else 0,
            num_shards=min(degree, num_ranks) if is_sharded else 1,
            num_parts=num_parts,
            is_offloaded=is_sharded and "offload" in words,
            device=device.split(":")[0],
        )
