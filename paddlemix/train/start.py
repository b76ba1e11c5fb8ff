"""Where a run begins: anew, at a checkpoint, or not at all, because it has come to its end before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..log import notice
from .best import noted_best
from .loader import summed
from .run_facts import LEARNING, ORDER, SAME, check_facts, check_same
from .run_folder import last_checkpoint
from .saving import finished_step
from .together import together
from .values import LAST

FINISHED = "finished"


def start_of(trainer, args) -> Path | str | None:
    """Return the checkpoint that a run goes on from, None for none, FINISHED if there is nothing left to do.

    Raises ValueError, in all processes, for a checkpoint that is not there, and for one of a run with other settings.
    """
    is_first = trainer.is_world_process_zero()
    checkpoint = together(lambda: _chosen(args), args.world_size)
    is_over = together(lambda: is_first and _is_over(trainer, args, checkpoint), args.world_size)
    return FINISHED if summed(np.array([float(is_over)]), args.world_size)[0] else checkpoint


def _chosen(args) -> Path | None:
    """Return the checkpoint that the settings name."""
    output_dir, chosen = Path(args.output_dir), args.resume_from_checkpoint
    if chosen == LAST:
        checkpoint = last_checkpoint(output_dir)
        if checkpoint is None:
            raise ValueError(f"resume_from_checkpoint is true, and {output_dir} has no whole checkpoint to go on from")
        return checkpoint
    if chosen is None:
        return None if args.overwrite_output_dir else last_checkpoint(output_dir)
    if not Path(chosen).is_dir():
        raise ValueError(f"resume_from_checkpoint {chosen} is no folder (looked for {Path(chosen).absolute()})")
    return Path(chosen)


def _is_over(trainer, args, checkpoint: Path | None) -> bool:
    """Tell if a run has come to its end before. Raises ValueError if what is there is of another run."""
    output_dir, is_data_checked = Path(args.output_dir), not args.ignore_data_skip
    if checkpoint is not None:
        check_same(trainer.facts, checkpoint, is_data_checked=is_data_checked, tell=notice)
        best = noted_best(checkpoint, args.output_dir) if args.load_best_model_at_end else None
        if best is not None:
            check_same(trainer.facts, best, is_data_checked=is_data_checked, tell=lambda text: None)
    finished = finished_step(output_dir)
    if args.overwrite_output_dir or args.resume_from_checkpoint not in (None, LAST) or finished is None:
        return False
    step, facts = finished
    what = f"the result in {output_dir}"
    check_facts(facts, trainer.facts, what, is_data_checked=is_data_checked, keys=(*SAME, *LEARNING, *ORDER))
    if step < trainer.num_steps():
        return False
    notice(f"already finished at step {step}, the result in {output_dir} stays; overwrite_output_dir trains anew")
    return True
