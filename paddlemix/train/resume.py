"""Checkpoint folders of a run: which is whole, which is the last, and how far it had come."""

from __future__ import annotations

from pathlib import Path

from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.trainer.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoints.files import read_json

COMPLETE = "complete"  # a checkpoint folder holds this file once everything else in it is written


def num_done_steps(checkpoint, args) -> int:
    """Return how many steps a resumed run has behind it, 0 where it does not go on with its data."""
    if not checkpoint or args.ignore_data_skip or args.ignore_load_lr_and_optim:
        return 0
    path = Path(checkpoint) / TRAINER_STATE_NAME
    return read_json(path)["global_step"] if path.is_file() else 0


def last_checkpoint(output_dir: Path) -> Path | None:
    """Return the whole checkpoint that was written last, or None; the highest number may be an older run's.

    Of two that were written in the same tick of the clock it is the one with the higher number.
    """
    whole = [mark.parent for mark in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")]
    # Of names that differ in a number only, the longer one has the higher number.
    written = {path: (path / COMPLETE).stat().st_mtime_ns for path in whole}
    return max(whole, key=lambda path: (written[path], len(path.name), path.name), default=None)
