"""What the machines of a run see of its output folder: the same one, or each a folder of its own. All processes call.

The first process writes everything but the optimizer's parts of a sharded run, so that folders that are not shared
will do where all of it is written on the first machine.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from paddle.distributed import fleet

from ..terminal.log import notice
from .peers import NUM_NODES
from .processes import gather, is_true_anywhere, wait_for_all


def check_folders(args) -> None:
    """Print where the files will be if output_dir is not shared. Raises ValueError, in all, where that cannot work."""
    if int(os.environ.get(NUM_NODES) or 1) < 2:
        return
    is_missing, is_lost = _look(args)
    if not is_missing:
        return
    reason = None
    if is_lost:
        reason = (
            "the optimizer's state is divided over machines (set sharding_parallel_degree to the processes of one "
            "machine, so that each machine has the whole)"
        )
    elif args.load_best_model_at_end:
        reason = "load_best_model_at_end reads a checkpoint on all machines (leave it out)"
    if reason:
        raise ValueError(
            f"output_dir {args.output_dir} is a folder of its own on each machine, and {reason}; or name a folder that "
            "all machines share"
        )
    if args.process_index == 0:
        notice(
            f"output_dir {args.output_dir} is not shared between the machines: all files are written on this one, that "
            "of rank 0. To resume, copy the newest checkpoint to the same path on the others"
        )


def _look(args) -> tuple[bool, bool]:
    """Return whether a process does not see the first one's folder, and whether one of these would write there."""
    name = gather(secrets.token_hex(8), args.world_size)[0]  # a name that no machine can have looked for before
    mark = Path(args.output_dir, f".shared-{name}")
    if args.process_index == 0:
        mark.touch()
    wait_for_all(args.world_size)
    try:
        is_missing = not mark.exists()
        is_lost = is_missing and _writes_state(args)
        return is_true_anywhere(is_missing, args.world_size), is_true_anywhere(is_lost, args.world_size)
    finally:
        if args.process_index == 0:
            mark.unlink()


def check_same_start(checkpoint: Path | None, world_size: int) -> None:
    """Raise ValueError, in all processes, if they would start from different checkpoints."""
    names = gather(None if checkpoint is None else checkpoint.name, world_size)
    if len(set(names)) > 1:
        where = ", ".join(f"rank {rank}: {name or 'none'}" for rank, name in enumerate(names))
        raise ValueError(
            f"the machines would resume from different checkpoints ({where}): copy the newest one to the same path on "
            "all of them, or name an output_dir that they share"
        )


def _writes_state(args) -> bool:
    """Return whether this process writes a part of the optimizer's state. See `run_state.save_state`."""
    if not args.use_hybrid_parallel:
        return args.should_save
    return fleet.get_hybrid_communicate_group().get_data_parallel_rank() <= 0
