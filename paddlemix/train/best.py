"""The best checkpoint of a run: which it is, and where its folder lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from paddlenlp.trainer.trainer import TRAINER_STATE_NAME

from ..tensor_files.stored import CheckpointError, read_json


def note_best(state, args, metrics: Mapping[str, float] | None, checkpoint: Path) -> None:
    """Keep in a trainer's state if a checkpoint, evaluated with `metrics`, is the best so far. Raises ValueError."""
    if metrics is None or args.metric_for_best_model is None:
        return
    name = "eval_" + args.metric_for_best_model.removeprefix("eval_")
    if name not in metrics:
        raise ValueError(f"metric_for_best_model is {args.metric_for_best_model!r}: expected one of {sorted(metrics)}")
    value, best = metrics[name], state.best_metric
    is_better = best is None or (value > best if args.greater_is_better else value < best)
    if is_better or state.best_model_checkpoint is None:
        state.best_metric, state.best_model_checkpoint = value, str(checkpoint)


def best_checkpoint(best: str, output_dir: str) -> Path:
    """Return the folder of the best checkpoint, also where the run's folder was moved. Raises CheckpointError."""
    folder = next((path for path in (Path(best), Path(output_dir) / Path(best).name) if path.is_dir()), None)
    if folder is None:
        raise CheckpointError(
            f"{best}, the best checkpoint of this run so far, is gone: put it back, or leave out load_best_model_at_end"
        )
    return folder


def noted_best(checkpoint: str | Path, output_dir: str) -> Path | None:
    """Return the best checkpoint that another one names, None where it names none. Raises CheckpointError."""
    path = Path(checkpoint) / TRAINER_STATE_NAME
    best = read_json(path).get("best_model_checkpoint") if path.is_file() else None
    return best_checkpoint(best, output_dir) if isinstance(best, str) else None


@contextmanager
def kept_from_paddlenlp(args) -> Iterator[bool]:
    """Tell if the best checkpoint is wanted, and hide it from paddlenlp, which would unpickle its weights."""
    is_wanted = bool(args.load_best_model_at_end)
    args.load_best_model_at_end = False
    try:
        yield is_wanted
    finally:
        args.load_best_model_at_end = is_wanted
