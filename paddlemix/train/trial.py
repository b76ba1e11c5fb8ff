"""Try a run: train a few steps on its longest rows, save a checkpoint, and compare it with the model in memory."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.trainer_utils import IntervalStrategy
from paddlenlp.utils.log import logger as paddlenlp_logger

from .. import device_memory
from ..checkpoints.layouts import paddlemix_lora as adapter_files
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.save import weights_of_codes
from ..checkpoints.source import open_source
from ..data.row import Row
from ..tensor_files.stored import preview
from .arguments import RunArguments
from .lora import trained_tensors
from .processes import wait_for_all
from .run import build
from .run_folder import COMPLETE

FOLDER = ".doctor"  # in output_dir, so that the run's own disk is tried
NUM_STEPS = 2  # from the second one on the optimizer's state exists, and memory reaches its usual peak
NUM_COMPARED = 8  # trained parameters, and as many frozen ones, whose values are compared before and after


@dataclass
class TrialResult:
    """What a trial observed, as far as it got. error: the exception that ended it.

    num_gradients: tensors with a gradient in each step. absent, not_finite: names of those without one and of those
    with NaN or infinite values. moved_frozen: frozen parameters that changed. peak: bytes. checkpoint_bytes: None if
    no whole checkpoint was written. differing: names of its tensors that differ from those in memory.
    """

    losses: list[float] | None = None
    num_gradients: int = 0
    absent: set[str] = field(default_factory=set)
    not_finite: set[str] = field(default_factory=set)
    moved_frozen: list[str] = field(default_factory=list)
    has_moved: bool = False
    peak: int | None = None
    is_checkpoint_checked: bool = False
    checkpoint_bytes: int | None = None
    differing: list[str] = field(default_factory=list)
    has_same_tokens: bool = True
    error: Exception | None = None


def try_run(
    settings: RunArguments,
    *,
    template: str | None,
    config_folder: Path | None,
    rows: list[Row],
    train_processor: LlavaProcessor,
) -> TrialResult:
    """Train NUM_STEPS of parsed settings, and leave no file behind. All processes of a run must call it.

    rows: at least one, the longest first. train_processor: what encodes them.
    """
    output_dir = Path(settings.training.output_dir)
    had_folder = output_dir.is_dir()
    scratch = output_dir / FOLDER
    settings = _trial_settings(settings, scratch)
    args, found = settings.training, TrialResult()
    try:
        _remove(scratch, args)
        wait_for_all(args.world_size)
        if not settings.data.is_packed:
            count = args.per_device_train_batch_size * args.dataset_world_size
            rows = [rows[index % len(rows)] for index in range(count)]
        trainer = _train(found, settings, template, config_folder, rows)
        if trainer.is_world_process_zero():
            _check_checkpoint(found, trainer, scratch / f"checkpoint-{NUM_STEPS}", rows[0], train_processor)
        wait_for_all(args.world_size)
    except Exception as error:  # any of them would have ended the run
        found.error = error
    finally:
        _remove(scratch, args)
        is_first = args.process_index == 0
        if is_first and not had_folder and output_dir.is_dir() and not any(output_dir.iterdir()):
            output_dir.rmdir()
    return found


def _trial_settings(settings: RunArguments, scratch: Path) -> RunArguments:
    """Return the settings for a few steps of one batch each, with another output folder."""
    model_args, data_args, args = (copy.copy(one) for one in settings)
    changes = {
        "output_dir": str(scratch),
        "logging_dir": str(scratch / "runs"),
        "overwrite_output_dir": True,
        "resume_from_checkpoint": None,
        "do_train": True,
        "do_eval": False,
        "evaluation_strategy": IntervalStrategy.NO,
        "load_best_model_at_end": False,
        "max_steps": NUM_STEPS,
        "gradient_accumulation_steps": 1,
        "warmup_ratio": 0.0,  # with warm-up the first step has a learning rate of 0
        "warmup_steps": 0,
        "logging_strategy": IntervalStrategy.STEPS,
        "logging_steps": 1,
        "save_strategy": IntervalStrategy.STEPS,
        "save_steps": NUM_STEPS,
        "group_by_length": False,
        "group_by_modality_length": False,
        "max_loss_ratio": 0.0,
        "disable_tqdm": True,
        "report_to": [],
    }
    for name, value in changes.items():
        setattr(args, name, value)
    return RunArguments(model_args, data_args, args)


def _train(
    found: TrialResult, settings: RunArguments, template: str | None, config_folder: Path | None, rows: list[Row]
):
    """Build a trainer and train; record losses, gradients, changed parameters and the peak of memory."""
    device = settings.training.device
    gc.collect()
    allocated = device_memory.allocated_memory(device)
    device_memory.reset_peak(device)
    with _quiet():
        trainer = build(settings, template=template, config_folder=config_folder, rows=rows)
        trainer.describe = dict  # nothing reads the facts of a trial, and the real ones take time
        trainer.add_callback(_Gradients(found, trainer.llava, is_whole=trainer.args.world_size == 1))
        before = _some_values(trainer.llava)
        trainer.train()
    found.losses = [loss for _, loss in trainer.history.values.get("loss", ())]
    after = _some_values(trainer.llava)
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    frozen = {name for name, parameter in trainer.llava.named_parameters() if parameter.stop_gradient}
    found.moved_frozen, found.has_moved = sorted(moved & frozen), bool(moved - frozen)
    peak = device_memory.peak_allocated(device)
    found.peak = peak - allocated if peak and allocated is not None else None
    return trainer


class _Gradients(TrainerCallback):
    """Records the gradients of each step before the optimizer uses them. is_whole: a process has all of them."""

    def __init__(self, found: TrialResult, model, is_whole: bool):
        self.found = found
        self.model = model
        self.is_whole = is_whole

    def on_optimizer_begin(self, args, state, control, **kwargs):
        self.found.num_gradients = 0
        for name, parameter in self.model.named_parameters():
            if parameter.stop_gradient:
                continue
            if parameter.grad is None:
                self.found.absent |= {name} if self.is_whole else set()
                continue
            self.found.num_gradients += 1
            if not bool(paddle.isfinite(parameter.grad.astype("float32").sum())):
                self.found.not_finite.add(name)


def _some_values(model) -> dict[str, np.ndarray]:
    """Return copies of a few trained and a few frozen parameters."""
    kinds: dict[bool, list] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        kinds[bool(parameter.stop_gradient)].append((name, parameter))
    some = [pair for pairs in kinds.values() for pair in pairs[:: max(len(pairs) // NUM_COMPARED, 1)]]
    return {name: parameter.numpy().copy() for name, parameter in some}


def _check_checkpoint(found: TrialResult, trainer, folder: Path, row: Row, train_processor: LlavaProcessor) -> None:
    """Read a checkpoint back as its users would, and compare it bit by bit with the model in memory."""
    found.is_checkpoint_checked = True
    if not (folder / COMPLETE).is_file():
        return
    found.checkpoint_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    found.differing = [name for name, stored, now in _pairs(trainer, folder) if stored.tobytes() != now.tobytes()]
    stored_processor = LlavaProcessor.from_pretrained(folder).with_template(train_processor.template.name)
    stored, now = (one.encode_row(row).token_ids for one in (stored_processor, train_processor))
    found.has_same_tokens = stored.tobytes() == now.tobytes()


def _pairs(trainer, folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, stored and current values of the weights or the adapter, and of the optimizer's state."""
    if isinstance(trainer.model, LoRAModel):
        current = trained_tensors(trainer.model)
        stored = adapter_files.read_adapter(folder, trainer.llava.config)
    else:
        current = dict(trainer.llava.named_parameters()) | weights_of_codes(trainer.llava, trainer.frozen)
        stored = open_source(folder).tensors
    if set(stored) != set(current):
        raise ValueError(f"the checkpoint has other tensors: {preview(sorted(set(stored) ^ set(current)), 3)}")
    for name, tensor in current.items():
        now = tensor.numpy() if isinstance(tensor, paddle.Tensor) else np.ascontiguousarray(tensor.values)
        yield name, np.ascontiguousarray(stored[name].values), now
    if trainer.args.world_size > 1:
        return  # each process has a part of the state
    state = trainer.optimizer.state_dict()
    for file in folder.glob("optimizer*.pdopt"):
        saved = paddle.load(str(file), return_numpy=True)
        tensors = {name: one for name, one in state.items() if isinstance(one, paddle.Tensor) and name in saved}
        yield from ((name, saved[name], one.numpy()) for name, one in tensors.items())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what trainers print."""
    level = paddlenlp_logger.logger.level
    paddlenlp_logger.set_level("ERROR")
    logging.getLogger("paddlenlp").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        paddlenlp_logger.logger.setLevel(level)


def _remove(folder: Path, args) -> None:
    if args.process_index == 0 and folder.is_dir():
        shutil.rmtree(folder)
