"""What a run writes: checkpoints on the way, and the result at the end. Each is entirely the old or the new one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..checkpoints.output_folder import MODEL_FILES, NOTE, exchanged
from ..output import write_json
from ..tensor_files.stored import read_json
from ..terminal.log import notice
from .best import noted_best
from .config_file import LAST
from .loader import summed
from .parallel import note_parts, together
from .results import ALL_RESULTS, draw_losses, write_results
from .run_facts import LEARNING, ORDER, SAME, check_facts, check_same
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
