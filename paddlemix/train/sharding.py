"""How Paddle divides weights and the optimizer's state over processes, what it cannot divide, and what files record.

Pipeline and the other kinds of model parallelism are refused; data parallelism needs nothing here, and for tensor
parallelism see `tensor_parallel`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddlenlp.trainer.trainer_utils import ShardingOption

from ..foreign_json import TEXT, Kind, check_values, whole_number
from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json
from .tensor_parallel import DEGREE, check_degree_asked

DIVISION_FILE = "processes.json"  # in a checkpoint: how its optimizer's state is divided over processes
DIVISION_KINDS: dict[str, Kind] = {
    "num_processes": whole_number(1, 1 << 16),
    "sharding": TEXT,
    "sharding_parallel_degree": whole_number(1, 1 << 16),
    "tensor_parallel_degree": whole_number(1, 1 << 16),
}
SLICE = "slice@"  # Paddle's prefix for the name of the part of a weight that a process keeps in sharding stage 3
MODEL_PARALLEL = (
    "pipeline_parallel_degree",
    "sep_parallel_degree",
    "context_parallel_degree",
    "expert_parallel_degree",
)
FAILS_ALONE = MODEL_PARALLEL[1:3]  # paddlenlp fails on these in a single process, and resets the others


def check_parallel(asked: dict[str, Any], num_processes: int) -> None:
    """Raise ValueError for settings with which Paddle would hang, or fail after the model is loaded.

    asked: the raw settings, device included.
    """
    for key in MODEL_PARALLEL if num_processes > 1 else FAILS_ALONE:
        if (asked.get(key) or 1) > 1:
            raise ValueError(
                f"{key} is {asked[key]}: layers are split by tensor_parallel_degree only; leave it out, and if a card "
                'is too small set that, "sharding": "stage3", "recompute": true or load_in_4bit with lora'
            )
    words = sharding_words(asked.get("sharding"))
    check_degree_asked(asked, num_processes, words)
    if num_processes <= 1:
        return
    stage = next((word for word in words if word.startswith("stage")), None)
    if stage is None:
        return
    if stage != "stage1" and asked["device"].startswith("cpu"):
        raise ValueError(f"sharding {stage} needs cards: on cpu Paddle has stage1 only")
    num_processes //= max(asked.get(DEGREE) or 1, 1)
    degree = asked.get("sharding_parallel_degree") or -1
    has_groups = degree > 0 and degree != num_processes
    if "offload" in words:
        _check_offload(stage, asked, has_groups)
    if stage != "stage1" and has_groups and asked.get("amp_master_grad"):
        raise ValueError(
            f"sharding {stage} with amp_master_grad works over all processes only: sharding_parallel_degree is "
            f"{degree}, expected {num_processes} or nothing"
        )
    for key in ("num_eval_answers", "eval_tasks", "load_best_model_at_end"):
        if stage == "stage3" and asked.get(key):
            raise ValueError(f"{key} needs whole weights in a process: take sharding stage2, or leave it out")


def sharding_words(sharding) -> list[str]:
    """Return the words of a `sharding` setting, which is text, a list of text or a list of paddlenlp's options."""
    words = sharding.split() if isinstance(sharding, str) else sharding or []
    return [str(getattr(word, "value", word)) for word in words]


def _check_offload(stage: str, asked: dict[str, Any], has_groups: bool) -> None:
    if stage == "stage1":
        raise ValueError('sharding "stage1 offload": offload goes with stage2 or stage3')
    is_half = asked.get("fp16") and asked.get("fp16_opt_level") == "O2" and not asked.get("amp_master_grad")
    if stage == "stage2" and (not is_half or has_groups):
        raise ValueError(
            'sharding "stage2 offload": Paddle supports it for fp16 with fp16_opt_level O2, without amp_master_grad '
            'and over all processes only; "stage3 offload" works in every dtype'
        )


def is_sliced(args) -> bool:
    """Return whether each process keeps only a part of the weights (stage 3)."""
    return args.world_size > 1 and ShardingOption.FULL_SHARD in args.sharding


def check_can_be_sliced(config) -> None:
    """Raise ValueError for a model that uses weights outside of the layers that own them."""
    if config.language.tie_word_embeddings:
        raise ValueError(
            "sharding stage3 gathers a layer's weights when the layer is called, and this model's embeddings are also "
            "its head (tie_word_embeddings): take stage2"
        )


def gather_frozen(wrapped: paddle.nn.Layer) -> None:
    """Gather the frozen weights of a stage 3 model in host memory; all processes must call it.

    Paddle's own gathering leaves them out.
    """
    sliced = [one for one in wrapped.parameters() if hasattr(one, "fw_storage")]
    trained = [one for one in sliced if not one.stop_gradient]
    frozen = [one for one in sliced if one.stop_gradient and one.status == "part"]  # the others are whole already
    if not frozen:
        return
    _swap(trained, frozen)
    try:
        wrapped.get_all_parameters(convert2cpu=True)
    finally:
        _swap(frozen, trained)


def _swap(to_freeze, to_train) -> None:
    # Paddle gathers the parameters that train.
    for parameters, is_frozen in ((to_freeze, True), (to_train, False)):
        for parameter in parameters:
            parameter.stop_gradient = is_frozen


@dataclass(frozen=True)
class UpdatedParameter:
    """A parameter that this process's optimizer updates. shape: of the part of it that is in this process.

    needs_master: the optimizer's state has a float32 copy of it, and the moments belong to that copy.
    """

    name: str
    shape: tuple[int, ...]
    needs_master: bool


def part_of(parameter: paddle.Tensor) -> paddle.Tensor:
    """Return what is in this process of a parameter: a slice of it in stage 3."""
    return parameter.fw_storage if hasattr(parameter, "fw_storage") else parameter


def is_half(parameter: paddle.Tensor) -> bool:
    """Return whether a parameter has 16 bits."""
    return parameter.dtype in (paddle.float16, paddle.bfloat16)


def trained_parameters(parameters: Iterable[paddle.Tensor], args) -> list[UpdatedParameter]:
    """Return the parameters that train, of a model that is wrapped for training already."""
    return [_described(one, ShardingOption.OFFLOAD in args.sharding) for one in parameters if not one.stop_gradient]


def updated_parameters(optimizer, parameters: Iterable[paddle.Tensor], args) -> list[UpdatedParameter]:
    """Return those of `trained_parameters` that this process's optimizer updates."""
    sharding = args.sharding if args.world_size > 1 else []
    if ShardingOption.SHARD_OP in sharding:
        return trained_parameters(optimizer._rank2params[optimizer._sharding_rank], args)
    if ShardingOption.SHARD_GRAD_OP not in sharding:
        return trained_parameters(parameters, args)
    if ShardingOption.OFFLOAD in sharding:
        buffer = optimizer.offload_params.buffer  # one float32 buffer with all weights of the process
        return [UpdatedParameter(buffer.name, tuple(buffer.shape), needs_master=True)]
    ranks = optimizer.param2rank
    return [one for one in trained_parameters(parameters, args) if ranks[one.name] == optimizer._rank]


def _described(parameter: paddle.Tensor, is_offloaded: bool) -> UpdatedParameter:
    shape = tuple(part_of(parameter).shape)
    return UpdatedParameter(parameter.name, shape, needs_master=is_half(parameter) and not is_offloaded)


def write_division(checkpoint: Path, args) -> None:
    """Record in a checkpoint how its optimizer's state is divided; one process calls it."""
    write_json(checkpoint / DIVISION_FILE, _division(args))


def check_division(checkpoint: str | Path | None, args) -> None:
    """Raise ValueError where a checkpoint's optimizer state is divided otherwise than this run's."""
    path = None if checkpoint is None else Path(checkpoint) / DIVISION_FILE
    if path is None or not path.is_file() or args.ignore_load_lr_and_optim:
        return
    written, now = read_json(path), _division(args)
    written = {DEGREE: 1, **written}
    check_values({**dict.fromkeys(DIVISION_KINDS), **written}, DIVISION_KINDS, str(path), CheckpointError)
    is_alike = written[DEGREE] == now[DEGREE]
    if (is_alike and written["sharding"] == now["sharding"] == "") or written == now:
        return
    same = "the same sharding" if is_alike else f"the same {DEGREE} and sharding"
    raise ValueError(
        f"{checkpoint} has the optimizer's state of {_in_words(written)}, and this is a run of {_in_words(now)}: "
        f"resume with as many processes and {same}, or set ignore_load_lr_and_optim to take the weights alone"
    )


def _division(args) -> dict[str, Any]:
    words = [word for word in sharding_words(args.sharding) if word != "offload"] if args.world_size > 1 else []
    degree = max(args.sharding_parallel_degree, 1) if words else 1
    return {
        "num_processes": args.world_size,
        "sharding": " ".join(words),
        "sharding_parallel_degree": degree,
        DEGREE: max(args.tensor_parallel_degree, 1),
    }


def _in_words(division: dict[str, Any]) -> str:
    number = "one process" if division["num_processes"] == 1 else f"{division['num_processes']} processes"
    number += f" of {DEGREE} {division[DEGREE]}" if division[DEGREE] > 1 else ""
    if not division["sharding"]:
        return f"{number} without sharding"
    return f"{number} with sharding {division['sharding']} over {division['sharding_parallel_degree']}"
