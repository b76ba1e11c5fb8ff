"""What Paddle divides over several processes, what it cannot, and what follows for weights and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import paddle
from paddlenlp.trainer.trainer_utils import ShardingOption

from ..foreign_json import TEXT, Kind, check_values, whole_number
from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json

PARTS_FILE = "processes.json"  # of a checkpoint: over how many processes its optimizer's state lies, and how
PARTS_KINDS: dict[str, Kind] = {
    "num_processes": whole_number(1, 1 << 16),
    "sharding": TEXT,
    "sharding_parallel_degree": whole_number(1, 1 << 16),
}
SLICE = "slice@"  # Paddle's sharding stage 3 puts it before the name of a weight's part that a process holds
MODEL_PARALLEL = (
    "tensor_parallel_degree",
    "pipeline_parallel_degree",
    "sep_parallel_degree",
    "context_parallel_degree",
    "expert_parallel_degree",
)
NOT_ALONE = MODEL_PARALLEL[2:4]  # what paddlenlp does not reset in a single process, and fails at


def check_parallel(asked: dict[str, Any], num_processes: int) -> None:
    """Refuse what would fail in Paddle after the model is loaded, or hang. asked: raw settings, device included.

    Raises ValueError.
    """
    for key in MODEL_PARALLEL if num_processes > 1 else NOT_ALONE:
        if (asked.get(key) or 1) > 1:
            raise ValueError(
                f"{key} is {asked[key]}: layers are not cut over processes here; leave it out, and where a card is too "
                'small set "sharding": "stage3", "recompute": true or load_in_4bit with lora'
            )
    if num_processes <= 1:
        return
    words = _words(asked.get("sharding"))
    stage = next((word for word in words if word.startswith("stage")), None)
    if stage is None:
        return
    if stage != "stage1" and asked["device"].startswith("cpu"):
        raise ValueError(f"sharding {stage} needs cards: on cpu Paddle has stage1 only")
    degree = asked.get("sharding_parallel_degree") or -1
    is_divided_twice = degree > 0 and degree != num_processes
    if "offload" in words:
        _check_offload(stage, asked, is_divided_twice)
    if stage != "stage1" and is_divided_twice and asked.get("amp_master_grad"):
        raise ValueError(
            f"sharding {stage} with amp_master_grad works over all processes only: sharding_parallel_degree is "
            f"{degree}, expected {num_processes} or nothing"
        )
    if stage == "stage3":
        _check_sliced(asked)


def _words(sharding) -> list[str]:
    words = sharding.split() if isinstance(sharding, str) else sharding or []
    return [str(getattr(word, "value", word)) for word in words]


def _check_offload(stage: str, asked: dict[str, Any], is_divided_twice: bool) -> None:
    if stage == "stage1":
        raise ValueError('sharding "stage1 offload": offload goes with stage2 or stage3')
    is_half = asked.get("fp16") and asked.get("fp16_opt_level") == "O2" and not asked.get("amp_master_grad")
    if stage == "stage2" and (not is_half or is_divided_twice):
        raise ValueError(
            'sharding "stage2 offload": Paddle does it for fp16 with fp16_opt_level O2, without amp_master_grad and '
            'over all processes only; "stage3 offload" works in every dtype'
        )


def _check_sliced(asked: dict[str, Any]) -> None:
    for key in ("num_eval_answers", "load_best_model_at_end"):
        if asked.get(key):
            raise ValueError(f"{key} needs whole weights in a process: take sharding stage2, or leave it out")


def is_sliced(args) -> bool:
    """Tell if a process holds parts of the weights only."""
    return args.world_size > 1 and ShardingOption.FULL_SHARD in args.sharding


def check_slicable(config) -> None:
    """Raise ValueError for a model whose weights are used outside of the layers that hold them."""
    if config.language.tie_word_embeddings:
        raise ValueError(
            "sharding stage3 puts a layer's weights together when it is called, and this model's embeddings are its "
            "head too (tie_word_embeddings): take stage2"
        )


def gather_frozen(wrapped: paddle.nn.Layer) -> None:
    """Put together, in host memory, the frozen weights of a stage 3 model: Paddle's own gathering leaves them out.

    All processes must call it.
    """
    sliced = [one for one in wrapped.parameters() if hasattr(one, "fw_storage")]
    trained = [one for one in sliced if not one.stop_gradient]
    frozen = [one for one in sliced if one.stop_gradient and one.status == "part"]  # else it is there as a whole
    if not frozen:
        return
    _swap(trained, frozen)
    try:
        wrapped.get_all_parameters(convert2cpu=True)
    finally:
        _swap(frozen, trained)


def _swap(to_freeze, to_train) -> None:
    # Paddle gathers what trains, among all parameters of the model.
    for parameters, is_frozen in ((to_freeze, True), (to_train, False)):
        for parameter in parameters:
            parameter.stop_gradient = is_frozen


@dataclass(frozen=True)
class Held:
    """A parameter that the optimizer of this process moves. shape: of the part of it that the process holds.

    needs_master: its float32 copy is part of the optimizer's state, and the moments are that copy's.
    """

    name: str
    shape: tuple[int, ...]
    needs_master: bool


def is_half(parameter: paddle.Tensor) -> bool:
    """Tell if a parameter has 16 bits."""
    return parameter.dtype in (paddle.float16, paddle.bfloat16)


def trained_parameters(parameters: Iterable[paddle.Tensor], args) -> list[Held]:
    """Return all that trains, out of a model's parameters; the model must be wrapped."""
    return [_held(one, ShardingOption.OFFLOAD in args.sharding) for one in parameters if not one.stop_gradient]


def held_parameters(optimizer, parameters: Iterable[paddle.Tensor], args) -> list[Held]:
    """Return those of `trained_parameters` that the optimizer of this process moves."""
    sharding = args.sharding if args.world_size > 1 else []
    is_offloaded = ShardingOption.OFFLOAD in sharding
    if ShardingOption.SHARD_OP in sharding:
        return trained_parameters(optimizer._rank2params[optimizer._sharding_rank], args)
    if ShardingOption.SHARD_GRAD_OP not in sharding:
        return trained_parameters(parameters, args)
    if is_offloaded:
        buffer = optimizer.offload_params.buffer  # all weights of the process in one, in float32
        return [Held(buffer.name, tuple(buffer.shape), needs_master=True)]
    ranks = optimizer.param2rank
    return [one for one in trained_parameters(parameters, args) if ranks[one.name] == optimizer._rank]


def _held(parameter: paddle.Tensor, is_offloaded: bool) -> Held:
    part = parameter.fw_storage if hasattr(parameter, "fw_storage") else parameter
    return Held(parameter.name, tuple(part.shape), needs_master=is_half(parameter) and not is_offloaded)


def note_parts(checkpoint: Path, args) -> None:
    """Write down how a checkpoint's optimizer state is divided; call it in one process."""
    write_json(checkpoint / PARTS_FILE, _parts(args))


def check_parts(checkpoint: str | Path | None, args) -> None:
    """Refuse to go on from an optimizer state that is divided in another way. Raises ValueError."""
    path = None if checkpoint is None else Path(checkpoint) / PARTS_FILE
    if path is None or not path.is_file() or args.ignore_load_lr_and_optim:
        return
    written, now = read_json(path), _parts(args)
    check_values({**dict.fromkeys(PARTS_KINDS), **written}, PARTS_KINDS, str(path), CheckpointError)
    if written["sharding"] == now["sharding"] == "" or written == now:
        return
    raise ValueError(
        f"{checkpoint} holds the optimizer's state of {_in_words(written)}, and this is a run of {_in_words(now)}: go "
        "on with as many and the same sharding, or set ignore_load_lr_and_optim to take the weights alone"
    )


def _parts(args) -> dict[str, Any]:
    words = [word for word in _words(args.sharding) if word != "offload"] if args.world_size > 1 else []
    degree = max(args.sharding_parallel_degree, 1) if words else 1
    return {"num_processes": args.world_size, "sharding": " ".join(words), "sharding_parallel_degree": degree}


def _in_words(parts: dict[str, Any]) -> str:
    number = "one process" if parts["num_processes"] == 1 else f"{parts['num_processes']} processes"
    if not parts["sharding"]:
        return f"{number} without sharding"
    return f"{number} with sharding {parts['sharding']} over {parts['sharding_parallel_degree']}"


Result = TypeVar("Result")


def together(action: Callable[[], Result], num_processes: int) -> Result:
    """Return what an action returns; all processes must call it. The action must not communicate.

    Where it fails in one process it fails in all of them, with the same text: nobody waits for a process that ended.
    Raises what the action raised, in other processes CheckpointError.
    """
    if num_processes <= 1:
        return action()
    result, failure = None, None
    try:
        result = action()
    except (ValueError, OSError) as error:
        failure = error
    problems: list[str | None] = []
    paddle.distributed.all_gather_object(problems, None if failure is None else str(failure))
    if failure is not None:
        raise failure
    problem = next((text for text in problems if text is not None), None)
    if problem is not None:
        raise CheckpointError(problem)
    return result
