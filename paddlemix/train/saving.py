"""Write a run's checkpoints, and its result at the end. Each is entirely the old one or entirely the new one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddlenlp.peft import LoRAModel

from ..checkpoints.layouts.paddlemix_lora import remove_adapter
from ..checkpoints.output_folder import exchanged
from ..checkpoints.save import save_config, save_model
from ..output import write_json
from .eval_tasks import with_prefix
from .freeze import mark_trained
from .lora import save_adapter
from .processes import wait_for_all
from .results import ALL_RESULTS, EVAL_RESULTS, draw_losses, write_results
from .resume import FINISHED
from .run_folder import COMMAND, FORMAT, STATE, last_checkpoint, new_checkpoint, remove_old
from .run_state import save_state
from .sharding import write_division


def save_checkpoint(trainer, metrics: Mapping[str, float] | None) -> None:
    """Write a checkpoint, all processes together, then remove old ones. Raises OSError that names what is left."""
    args, step = trainer.args, trainer.state.global_step
    output_dir = Path(args.output_dir)
    facts = trainer.facts if args.should_save else {}
    roles = {"is_writer": args.should_save, "is_shared": args.world_size > 1}
    try:
        with new_checkpoint(output_dir, step, facts, wait_for_all=lambda: wait_for_all(args.world_size), **roles) as (
            folder,
            final,
        ):
            trainer.save_model(str(folder))
            record_best(trainer.state, args, metrics, final)
            save_state(trainer, folder)
            if trainer.is_world_process_zero():
                trainer.tally.save(folder)
                trainer.history.write(folder)
                write_division(folder, args)
    except OSError as error:
        last = last_checkpoint(output_dir)
        left = "there is no whole checkpoint yet" if last is None else f"{last} is whole, and the run resumes from it"
        raise OSError(f"{output_dir}/checkpoint-{step} cannot be written: {error}; {left}") from error
    if args.should_save:
        remove_old(output_dir, args.save_total_limit, [trainer.state.best_model_checkpoint])


def write_model(trainer, folder: Path) -> None:
    """Write the model, or its adapter, and the processor. All cards that share a model must call it."""
    model, is_writer = trainer.llava, trainer.args.should_save
    if not is_writer and model.cards is None:
        return
    if trainer.state.global_step > 0:
        mark_trained(model)
    if isinstance(trainer.model, LoRAModel):
        if is_writer:
            save_config(model, folder)
        save_adapter(trainer.model, folder)
    else:
        save_model(model, folder, frozen=trainer.frozen)
    if is_writer:
        if not isinstance(trainer.model, LoRAModel):
            remove_adapter(folder)
        trainer.processor.save_pretrained(folder)


def record_best(state, args, metrics: Mapping[str, float] | None, checkpoint: Path) -> None:
    """Record in a trainer's state if a checkpoint is the best so far. metrics: of its evaluation. Raises ValueError."""
    if metrics is None or args.metric_for_best_model is None:
        return
    name = with_prefix(args.metric_for_best_model)
    if name not in metrics:
        raise ValueError(f"metric_for_best_model is {args.metric_for_best_model!r}: expected one of {sorted(metrics)}")
    value, best = metrics[name], state.best_metric
    if value is None:  # a figure that is not defined for the answers, such as a precision without positive ones
        return
    is_better = best is None or (value > best if args.greater_is_better else value < best)
    if is_better or state.best_model_checkpoint is None:
        state.best_metric, state.best_model_checkpoint = value, str(checkpoint)


def save_result(trainer, metrics: Mapping[str, Any], settings: Mapping[str, Any] | None) -> None:
    """Write the model and the figures of the run in place of an earlier result; all processes must call it.

    settings: the command's, for train_results.json.
    """
    output_dir, is_first = Path(trainer.args.output_dir), trainer.is_world_process_zero()
    if is_first:
        finished = {FINISHED: {"step": trainer.state.global_step, FORMAT: 1, **trainer.facts}}
        (output_dir / EVAL_RESULTS).unlink(missing_ok=True)  # it is of the earlier model
        output = exchanged(output_dir, COMMAND, values=finished)
    else:
        output = contextlib.nullcontext(output_dir)
    with output as folder:
        trainer.save_model(str(folder))
        if is_first:
            # paddlenlp counts samples from 0 in a run with no step left to do.
            samples = trainer.state.global_step * trainer.facts["samples_per_step"]
            write_json(folder / STATE, {**dataclasses.asdict(trainer.state), "consumed_samples": samples})
            write_json(folder / ALL_RESULTS, dict(metrics))
            write_results(folder, metrics, settings or {}, trainer.facts["data"], trainer.meter.overall())
            draw_losses(folder, trainer.history.values, trainer.data.main_metrics)
    wait_for_all(trainer.args.world_size)
