"""The check that trains: two steps through the real trainer, a checkpoint, and a look at what it holds."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.trainer_utils import IntervalStrategy
from paddlenlp.utils.log import logger as paddlenlp_logger

from .. import device as devices
from ..checkpoints.layouts import lora as adapter_files
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.source import open_source
from ..data.row import Row
from ..tensor_files.stored import preview
from ..terminal.sizes import in_bytes, in_memory
from ..train.lora import trained_tensors
from ..train.run import build
from ..train.run_folder import COMPLETE
from .check import Check
from .inputs import Home, Sampled

FOLDER = ".doctor"  # below output_dir, so that the run's own disk is tried
NUM_STEPS = 2  # the optimizer's state is there from the second one on, and with it the usual peak
NUM_LOOKED_AT = 8  # parameters that are compared before and after


class Gradients(TrainerCallback):
    """Looks at the gradients of each step before the optimizer uses them."""

    def __init__(self, model, is_whole: bool):
        self.model = model
        self.is_whole = is_whole
        self.infinite: set[str] = set()
        self.absent: set[str] = set()
        self.num_seen = 0

    def on_optimizer_begin(self, args, state, control, **kwargs):
        for name, parameter in self.model.named_parameters():
            if parameter.stop_gradient:
                continue
            if parameter.grad is None:
                self.absent |= {name} if self.is_whole else set()
                continue
            self.num_seen += 1
            if not bool(paddle.isfinite(parameter.grad.astype("float32").sum())):
                self.infinite.add(name)


def check_trial(check: Check, settings, template: str | None, config_folder, sampled: Sampled, home: Home) -> None:
    """Train NUM_STEPS on the longest rows, save, and compare what was saved; leave nothing behind."""
    output_dir = Path(settings[2].output_dir)
    had_folder = output_dir.is_dir()
    scratch = output_dir / FOLDER
    trial = _trial_settings(settings, scratch)
    device = trial[2].device
    gc.collect()
    before = devices.allocated_memory(device)
    try:
        _remove(scratch, trial[2])
        _meet(trial[2])
        devices.forget_peak_allocated(device)
        with _quiet():
            trainer = build(
                trial,
                template=template,
                config_folder=config_folder,
                choose=lambda rows: _chosen(rows, sampled, trial),
            )
            trainer.describe = dict  # what the files hold, nobody asks of a trial
            _train(check, trainer)
        peak = devices.peak_allocated(device)
        check.values["peak"] = peak - before if peak and before is not None else None
        checkpoint = scratch / f"checkpoint-{NUM_STEPS}"
        if trainer.is_world_process_zero():
            _check_checkpoint(check, trainer, checkpoint, sampled.pairs[0][0], home)
        _meet(trial[2])
    except Exception as error:  # whatever it is, it would have ended the run
        check.fail(_in_words(error))
    finally:
        _remove(scratch, trial[2])
        is_first = trial[2].process_index == 0
        if is_first and not had_folder and output_dir.is_dir() and not any(output_dir.iterdir()):
            output_dir.rmdir()


def _trial_settings(settings, scratch: Path):
    """Return the settings for a few steps of one batch each that write to another folder."""
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
        "warmup_ratio": 0.0,  # with warm-up the first step has a rate of 0
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
    return model_args, data_args, args


def _chosen(rows: list[Row], sampled: Sampled, trial) -> list[Row]:
    """Return the longest rows that were measured, as many as a step of all processes needs; for packs all of them."""
    _, data_args, args = trial
    wanted = [row for row, _ in sampled.pairs]
    if not (data_args.packing or data_args.mixtoken):
        count = args.per_device_train_batch_size * args.dataset_world_size
        wanted = [wanted[place % len(wanted)] for place in range(count)]
    return wanted


def _train(check: Check, trainer) -> None:
    """Run the steps and report losses, gradients and what moved."""
    gradients = Gradients(trainer.llava, is_whole=trainer.args.world_size == 1)
    trainer.add_callback(gradients)
    before = _some_values(trainer.llava)
    try:
        trainer.train()
    finally:  # what a step spoils, the next one stumbles over
        _tell_gradients(check, gradients)
    losses = [loss for _, loss in trainer.history.values.get("loss", ())]
    check.values["losses"] = losses
    check.say(f"loss {' then '.join(f'{loss:.4f}' for loss in losses)} on the longest rows that were measured")
    if not losses or not np.isfinite(losses).all():
        check.fail("the loss is no number", "look at the rows with `paddlemix inspect-data`, or train in bfloat16")
    after = _some_values(trainer.llava)
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    frozen = {name for name, parameter in trainer.llava.named_parameters() if parameter.stop_gradient}
    if moved & frozen:
        check.fail(f"frozen parameters moved: {preview(sorted(moved & frozen), 3)}")
    if not moved - frozen and trainer.args.learning_rate > 0:
        check.warn("the steps moved none of the parameters that were looked at: the learning rate may be too low")


def _tell_gradients(check: Check, gradients: Gradients) -> None:
    if gradients.infinite:
        check.fail(f"{len(gradients.infinite)} gradients are not finite: {preview(sorted(gradients.infinite), 3)}")
    elif gradients.num_seen:
        check.say(f"gradients of {gradients.num_seen // NUM_STEPS} trained tensors, all finite")
    if gradients.absent:
        check.warn(f"no gradient reaches {len(gradients.absent)} tensors: {preview(sorted(gradients.absent), 3)}")


def _some_values(model) -> dict[str, np.ndarray]:
    """Return copies of a few trained and a few frozen parameters."""
    kinds: dict[bool, list] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        kinds[bool(parameter.stop_gradient)].append((name, parameter))
    looked = [pair for pairs in kinds.values() for pair in pairs[:: max(len(pairs) // NUM_LOOKED_AT, 1)]]
    return {name: parameter.numpy().copy() for name, parameter in looked}


def _check_checkpoint(check: Check, trainer, folder: Path, row: Row, home: Home) -> None:
    """Read a checkpoint back as whoever uses it would, and compare it bit by bit with what is in memory."""
    if not (folder / COMPLETE).is_file():
        check.fail(f"{folder} was not written whole")
        return
    wrong = [name for name, found, expected in _pairs(trainer, folder) if found.tobytes() != expected.tobytes()]
    if wrong:
        check.fail(f"{len(wrong)} tensors of the checkpoint differ from those in memory: {preview(wrong, 3)}")
    reread = LlavaProcessor.from_pretrained(folder)
    ids, own = (
        one.encode_to_train(row.conversation, folders=row.folders)[0].token_ids
        for one in (reread.with_template(home.teacher.template.name), home.teacher)
    )
    if ids.tobytes() != own.tobytes():
        check.fail("the tokenizer of the checkpoint makes other tokens of the same row")
    if not wrong:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        check.values["checkpoint"] = size
        check.say(f"checkpoint of {in_bytes(size)} written, read back and equal bit by bit")


def _pairs(trainer, folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, stored and current values: the weights or the adapter, and the optimizer's state."""
    if isinstance(trainer.model, LoRAModel):
        current = trained_tensors(trainer.model)
        stored = adapter_files.read_adapter(folder, trainer.llava.config)
    else:
        current = dict(trainer.llava.named_parameters())
        stored = open_source(folder).tensors
    if set(stored) != set(current):
        raise ValueError(f"the checkpoint holds other tensors: {preview(sorted(set(stored) ^ set(current)), 3)}")
    for name, tensor in current.items():
        yield name, np.ascontiguousarray(stored[name].values), tensor.numpy()
    if trainer.args.world_size > 1:
        return  # each process has a part of the state
    state = trainer.optimizer.state_dict()
    for file in folder.glob("optimizer*.pdopt"):
        kept = paddle.load(str(file), return_numpy=True)
        yield from ((name, kept[name], one.numpy()) for name, one in state.items() if _is_tensor(one) and name in kept)


def _is_tensor(value) -> bool:
    return isinstance(value, paddle.Tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what trainers print off the terminal."""
    level = paddlenlp_logger.logger.level
    paddlenlp_logger.set_level("ERROR")
    logging.getLogger("paddlenlp").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        paddlenlp_logger.logger.setLevel(level)


def _in_words(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, (ValueError, OSError)):
        return text
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if "Error" in line and not line.lstrip().startswith(("File", "at "))]
    return f"{type(error).__name__}: {(marked or lines or [''])[-1].strip()}"


def _remove(folder: Path, args) -> None:
    if args.process_index == 0 and folder.is_dir():
        shutil.rmtree(folder)


def _meet(args) -> None:
    """Wait for the other processes; one that failed does not come, and ends the others by its exit code."""
    if args.world_size > 1:
        paddle.distributed.barrier()


def compare_peak(check: Check, allocated: int) -> None:
    """Set the measured peak beside the estimate for the same batch."""
    peak = check.values.get("peak")
    if peak:
        check.say(f"peak of {in_memory(peak)} measured, {in_memory(allocated)} estimated")
