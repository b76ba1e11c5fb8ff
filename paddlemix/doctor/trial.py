"""The check that trains: judge a trial of a few steps and the checkpoint that it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..tensor_files.stored import preview
from ..terminal.sizes import in_bytes, in_memory, plural
from ..train.arguments import RunArguments
from ..train.trial import TrialResult, try_run
from .check import Check
from .error_text import of_error
from .inputs import RunModel, SampledRows


def check_trial(
    check: Check,
    settings: RunArguments,
    template: str | None,
    config_folder: Path | None,
    sampled: SampledRows,
    model: RunModel,
) -> None:
    """Train a few steps on the longest rows and save a checkpoint; nothing of it is left on the disk."""
    rows, processor = [row for row, _ in sampled], model.train_processor
    found = try_run(settings, template=template, config_folder=config_folder, rows=rows, train_processor=processor)
    _judge_gradients(check, found)
    if found.losses is not None:
        _judge_steps(check, found, settings.training.learning_rate)
    if found.is_checkpoint_checked and found.error is None:
        _judge_checkpoint(check, found)
    if found.error is not None:
        is_user_error = isinstance(found.error, (ValueError, OSError))
        check.fail(str(found.error).strip() if is_user_error else of_error(found.error))


def _judge_gradients(check: Check, found: TrialResult) -> None:
    if found.not_finite:
        check.fail(f"{plural(len(found.not_finite), 'gradient')} not finite: {preview(sorted(found.not_finite), 3)}")
    elif found.num_gradients:
        check.say(f"gradients of {plural(found.num_gradients, 'trained tensor')}, all finite")
    if found.absent:
        check.warn(f"no gradient reaches {plural(len(found.absent), 'tensor')}: {preview(sorted(found.absent), 3)}")


def _judge_steps(check: Check, found: TrialResult, learning_rate: float) -> None:
    check.values |= {"losses": found.losses, "peak": found.peak}
    losses = " then ".join(f"{loss:.4f}" for loss in found.losses)
    check.say(f"loss {losses} on the longest rows that were measured")
    if not found.losses or not np.isfinite(found.losses).all():
        check.fail("the loss is not finite", "look at the rows with `paddlemix inspect-data`, or train in bfloat16")
    if found.moved_frozen:
        check.fail(f"frozen parameters changed: {preview(found.moved_frozen, 3)}")
    if not found.has_moved and learning_rate > 0:
        check.warn("the steps changed none of the compared parameters: the learning rate may be too low")


def _judge_checkpoint(check: Check, found: TrialResult) -> None:
    if found.checkpoint_bytes is None:
        check.fail("the checkpoint was not written completely")
        return
    if found.differing:
        num, names = plural(len(found.differing), "tensor"), preview(found.differing, 3)
        differ = "differs from that" if len(found.differing) == 1 else "differ from those"
        check.fail(f"{num} of the checkpoint {differ} in memory: {names}")
    if not found.has_same_tokens:
        check.fail("the tokenizer of the checkpoint tokenizes the same row differently")
    if not found.differing:
        check.values["checkpoint"] = found.checkpoint_bytes
        check.say(f"checkpoint of {in_bytes(found.checkpoint_bytes)} written, read back and bit-identical")


def compare_peak(check: Check, allocated: int) -> None:
    """Report the measured peak of memory and the estimate for the same batch."""
    peak = check.values.get("peak")
    if peak:
        check.say(f"peak of {in_memory(peak)} measured, {in_memory(allocated)} estimated")
