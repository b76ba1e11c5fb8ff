"""The cards of a run that share one decoder, of Fleet's groups, and what such a run cannot do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from paddle.distributed import fleet

from ..models.parallel.cards import Cards
from .settings import num_card_parts

DEGREE = "tensor_parallel_degree"
ALONE = ("num_eval_answers", "eval_tasks")  # settings for which a process generates, with other questions than others


def check_degree_asked(asked: dict[str, Any], num_processes: int, words: Collection[str]) -> None:
    """Raise ValueError for a degree that the processes cannot have, and for settings that do not go with it.

    asked: the raw settings. words: of `sharding`.
    """
    degree = asked.get(DEGREE) or 1
    if degree <= 1 or num_processes <= 1:  # a single process ignores it, with a notice
        return
    num_card_parts(degree, num_processes)
    for stage in ("stage2", "stage3"):
        if stage in words:
            raise ValueError(
                f"sharding {stage} does not go with {DEGREE}: Paddle would clip the gradients of each card by another "
                "norm; take stage1"
            )
    for key in ALONE:
        if asked.get(key):
            raise ValueError(f"{key} needs a whole model in a process, and {DEGREE} is {degree}: leave one of them out")


def cards_of(args) -> Cards | None:
    """Return the cards that share the decoder with this process, None if it has the whole."""
    if args.world_size <= 1 or args.tensor_parallel_degree <= 1:
        return None
    # All cards of a group read the same rows, so that nothing has to be sent before a step.
    fleet.fleet._user_defined_strategy.hybrid_configs["mp_configs"].need_broadcast_data = False
    group = fleet.get_hybrid_communicate_group().get_model_parallel_group()
    return Cards(group.rank, group.nranks, group)
