"""What a run writes: checkpoints on the way, and the result at the end. Each is entirely the old or the new one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle

from ..checkpoints.files import read_json
from ..checkpoints.output_folder import MODEL_FILES, NOTE, exchanged
from ..output import write_json
from .parallel import note_parts
from .results import ALL_RESULTS, draw_losses, write_results
from .run_folder import COMMAND, FORMAT, STATE, last_checkpoint, new_checkpoint, remove_old

EVAL_RESULTS = "eval_results.json"
FINISHED = "finished"  # of the folder's note: the last step of a run that came to its end, and its facts


def save_checkpoint(trainer, metrics: Mapping[str, float] | None) -> None:
    """Write a checkpoint, all processes together, then remove old ones. Raises OSError naming what is left."""
    args, step = trainer.args, trainer.state.global_step
    output_dir = Path(args.output_dir)
    place = {"is_writer": args.should_save, "meet": lambda: meet(args), "is_shared": args.world_size > 1}
    try:
        with new_checkpoint(output_dir, step, trainer.facts if args.should_save else {}, **place) as (folder, final):
            trainer.write_checkpoint(folder, final, metrics)
            if trainer.is_world_process_zero():
                trainer.tally.save(folder)
                trainer.history.write(folder)
                note_parts(folder, args)
    except OSError as error:
        last = last_checkpoint(output_dir)
        left = "there is no whole checkpoint yet" if last is None else f"{last} is whole, and the run goes on from it"
        raise OSError(f"{output_dir}/checkpoint-{step} cannot be written: {error}; {left}") from error
    if args.should_save:
        remove_old(output_dir, args.save_total_limit, [trainer.state.best_model_checkpoint])


def meet(args) -> None:
    """Wait for all processes."""
    if args.world_size > 1:
        paddle.distributed.barrier()


def save_result(trainer, metrics: Mapping[str, Any], settings: Mapping[str, Any] | None) -> None:
    """Write the model, and what is known of the run, in the place of what the output folder held before.

    settings: what train_results.json tells of the command. All processes must call it.
    """
    output_dir, is_first = Path(trainer.args.output_dir), trainer.is_world_process_zero()
    if is_first:
        finished = {FINISHED: {"step": trainer.state.global_step, FORMAT: 1, **trainer.facts}}
        (output_dir / EVAL_RESULTS).unlink(missing_ok=True)  # it is of the model that was there before
        place = exchanged(output_dir, COMMAND, values=finished)
    else:
        place = contextlib.nullcontext(output_dir)
    with place as folder:
        trainer.save_model(str(folder))
        if is_first:
            write_json(folder / STATE, {**dataclasses.asdict(trainer.state), "consumed_samples": _num_samples(trainer)})
            write_json(folder / ALL_RESULTS, dict(metrics))
            write_results(folder, metrics, settings or {}, trainer.facts["data"], trainer.meter.overall())
            draw_losses(folder, trainer.history.values)
    meet(trainer.args)


def _num_samples(trainer) -> int:
    """Return how many samples the steps so far took; paddlenlp counts anew in a run that has no step to go."""
    args = trainer.args
    each = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.dataset_world_size
    return trainer.state.global_step * each


def write_metrics(folder: Path, split: str, metrics: Mapping[str, Any], *, is_combined: bool) -> None:
    """Write a split's metrics, and add them to all_results.json."""
    write_json(folder / f"{split}_results.json", dict(metrics))
    if is_combined:
        path = folder / ALL_RESULTS
        write_json(path, {**(read_json(path) if path.is_file() else {}), **metrics})


def finished_step(output_dir: str | Path) -> tuple[int, dict[str, Any]] | None:
    """Return the last step and the facts of the run whose whole result a folder holds, None where there is none."""
    path = Path(output_dir) / NOTE
    note = read_json(path) if path.is_file() else {}
    values, files = note.get(FINISHED), note.get("files")
    if not isinstance(values, dict) or not isinstance(values.get("step"), int) or not isinstance(files, list):
        return None
    model = [name for name in files if isinstance(name, str) and MODEL_FILES.fullmatch(name)]
    if not all((path.parent / name).is_file() for name in model):
        return None
    return values["step"], values
