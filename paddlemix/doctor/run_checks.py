"""All checks of a run, in the order in which the run would meet the problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from .. import device as devices
from .. import device_memory
from ..constants import DTYPE_BYTES
from ..terminal.sizes import in_memory, plural
from ..train.arguments import RunArguments, parse
from ..train.run_facts import samples_per_step
from ..train.settings import DataSettings, MemorySettings, Method, check_work
from ..train.sharding import sharding_words
from ..train.tensor_parallel import check_degree_asked
from .check import FAILED, Check, Diagnosis
from .inputs import RunModel, SampledRows, check_data, check_model, check_settings, load_of
from .machine import check_disk, check_versions, has_traces
from .memory import GIB, MOMENTS, Estimate, advice, estimate, outline
from .operations import try_basics
from .trial import check_trial, compare_peak

NEARLY_FULL = 0.9  # of the memory: fragmentation needs the rest
CARDS = (16, 24, 32, 40, 48, 64, 80, 96, 128)  # GiB of memory that cards have
HALF = ("fp16", "bf16", "fp16_full_eval", "bf16_full_eval", "fp16_opt_level", "amp_master_grad")
# What to train with on a card instead of float32, and as it stands in a configuration.
HALF_SETTINGS = {"bf16": True, "fp16_opt_level": "O2"}
HALF_IN_WORDS = '"bf16": true, "fp16_opt_level": "O2"'
EVALUATES_ONLY = "nothing would be trained: do_train is false"


@dataclass(frozen=True)
class Plan:
    """A run to check. values: its raw settings. device: its name, None if it is not there. num_cards: of the run."""

    values: dict[str, Any]
    device: str | None
    num_cards: int

    @property
    def kind(self) -> str:
        return (self.device or str(self.values.get("device"))).partition(":")[0]

    @property
    def num_parts(self) -> int:
        """Cards that share a decoder; 1 for a degree that the check of the memory refuses."""
        degree = MemorySettings.read(self.values).tensor_parallel_degree
        return degree if degree > 1 and self.num_cards % degree == 0 else 1

    def method(self, args) -> Method:
        """Return how the run trains. args: parsed training settings, of the CPU if the device is not there."""
        has_half = args.fp16 or args.bf16 or self.device is None
        return MemorySettings.read(self.values).method(self.kind, self.num_cards, has_half=has_half)

    def values_here(self) -> dict[str, Any]:
        """Return settings that this machine can parse: those of a device that is not there are checked on the CPU."""
        if self.device is not None:
            return self.values
        return {**{key: value for key, value in self.values.items() if key not in HALF}, "device": devices.CPU}


def diagnose(
    values: dict[str, Any],
    *,
    template: str | None,
    config_folder: Path | None,
    num_cards: int | None = None,
    is_tried: bool = True,
) -> Diagnosis:
    """Check a configuration; a check that needs the result of one that failed is skipped.

    template: as in `train.run.train`. num_cards: to estimate the memory for more cards than there are processes now;
    where this machine has none of that kind, the diagnosis is a plan. is_tried: load the model and train a few steps.
    """
    diagnosis, settings, model, sampled, found, device = Diagnosis(), None, None, None, None, None
    with diagnosis.check("versions") as check:
        check_versions(check)
    with diagnosis.check("device") as check:
        absent = absent_kind(values) if num_cards else None
        if absent:
            diagnosis.plan = plural(num_cards, f"{absent} card")
            check.skip(f"this machine has no {absent}: the plan below holds for a machine that has")
        else:
            device = _check_device(check, values)
    run = Plan(values, device, max(num_cards or 1, paddle.distributed.get_world_size()))
    with diagnosis.check("settings") as check:
        parsed = parse(run.values_here(), num_processes=run.num_cards)
        check_work(parsed.training.do_train, parsed.training.do_eval)
        settings = parsed
        check_settings(check, settings, run.num_cards, run.num_parts)
    with diagnosis.check("model") as check:
        inputs, is_plan = (settings, template, config_folder), diagnosis.plan is not None
        model = check_model(check, *inputs, is_plan=is_plan) if settings else check.skip("needs the settings")
    with diagnosis.check("data") as check:
        sampled = check_data(check, settings, model, config_folder) if model else check.skip("needs the model")
        if sampled and settings.training.do_train:
            _say_steps(check, run, settings)
    with diagnosis.check("memory") as check:
        found = _check_memory(check, run, settings, model, sampled)
    with diagnosis.check("disk") as check:
        _check_disk(check, run, settings, found)
    with diagnosis.check("trial", is_notice_warned=False) as check:
        reason = _reason_to_skip_trial(diagnosis, settings, found, is_tried)
        if reason:
            check.skip(reason)
        else:
            check_trial(check, settings, template, config_folder, sampled, model)
            if run.num_cards <= settings.training.world_size:  # otherwise the estimate is for another run
                compare_peak(check, found.allocated)
    return diagnosis


def absent_kind(values: dict[str, Any]) -> str | None:
    """Return the kind of card that a run names and this machine does not have, None otherwise.

    None too where there are traces of one: a card that does not work must not pass for one that is not meant.
    """
    kind = str(values.get("device") or "").partition(":")[0]
    is_absent = kind in (devices.GPU, devices.NPU) and not devices.num_devices(kind)
    return kind if is_absent and not has_traces(kind) else None


def _check_device(check: Check, values: dict[str, Any]) -> str:
    """Return the name of the device."""
    wanted = values.get("device")
    device = devices.use_device(str(wanted) if wanted else None)
    memory = MemorySettings.read(values)
    asked = "float16" if memory.fp16 else "bfloat16" if memory.bf16 else "float32"
    check_device(check, device, asked if devices.can_compute(asked, device) else "float32", asked != "float32")
    return device


def check_device(check: Check, device: str, dtype: str, is_half_wanted: bool) -> None:
    """Compare the basic operations of training, forward and backward, with NumPy. dtype: the one the run will use."""
    memory = device_memory.memory_of(device)
    size = "memory not known" if memory is None else f"{in_memory(memory[1])} of {in_memory(memory[0])} free"
    check.say(f"{device}, {size}; computes in {dtype}")
    check.values |= {"device": device, "dtype": dtype, "memory": memory and {"total": memory[0], "free": memory[1]}}
    if is_half_wanted and dtype == "float32":
        check.warn(
            "the settings ask for 16 bits, which this device cannot compute: it will use float32, twice the memory"
        )
    for name in dict.fromkeys(("float32", dtype)):
        try_basics(check, name, "see docs/en/quickstart.md on the installation for this device")


def _say_steps(check: Check, run: Plan, settings: RunArguments) -> None:
    """Say how many steps a run has; those of packed rows are known once they are packed. check: of the data."""
    args, num_rows = settings.training, check.values["train"]["num_rows"]
    each = plural(samples_per_step(args, run.num_cards // run.num_parts), "sample")
    known = {key: value for key, value in run.values.items() if key in DataSettings.__dataclass_fields__}
    per_epoch, total = DataSettings.read(known).steps(num_rows, run.num_cards)
    if settings.data.is_packed and args.max_steps <= 0:
        return
    number = f"{total / per_epoch:.3g}"
    epochs = "" if settings.data.is_packed else f", {number} epoch{'' if number == '1' else 's'}"
    check.say(f"{plural(total, 'step')} of {each}{epochs}")
    check.values["num_steps"] = total


def _check_memory(
    check: Check,
    run: Plan,
    settings: RunArguments | None,
    model: RunModel | None,
    sampled: SampledRows | None,
) -> Estimate | None:
    if sampled is None:
        return check.skip("needs model and data")
    model_args, _, args = settings
    if not args.do_train:
        return check.skip(EVALUATES_ONLY)
    if run.device is None and run.kind not in devices.KINDS:
        return check.skip("needs the device")
    check_degree_asked(run.values, run.num_cards, sharding_words(run.values.get("sharding")))
    method = run.method(args)
    load = load_of(sampled, model, settings, is_padded=devices.wants_equal_shapes(run.kind))
    trainable = outline(model.config, model_args)
    found = estimate(model.config, trainable, load, method)
    samples, tiles = plural(len(load.lengths), "sample"), plural(load.num_tiles, "tile")
    batch = f"{samples} of {plural(load.num_tokens, 'token')} in all, {tiles}"
    check.say(f"{batch}; {plural(found.num_trained, 'trained parameter')}; {_in_words(method)}")
    check.values["estimate"] = table(found)
    if _can_train_in_half(run, method):
        half = MemorySettings.read({**run.values, **HALF_SETTINGS}).method(run.kind, run.num_cards)
        saved = found.total - estimate(model.config, trainable, load, half).total
        check.advice.append(f"{HALF_IN_WORDS} (about {in_memory(saved)} less, and faster)")
    hints = advice(found, method, len(load.lengths), run.num_cards)
    if run.device is None:
        _name_cards(check, found, run.kind, hints)
    else:
        _compare_free(check, found, args.device, hints)
    return found


def _compare_free(check: Check, found: Estimate, device: str, hints: list[str]) -> None:
    """Compare an estimate with the free memory of a device. hints: settings that need less."""
    available = device_memory.memory_of(device)
    if available is None:
        check.warn(f"the memory of {device} is not known: compare the estimate by hand")
        return
    total, free = available
    check.values |= {"total": total, "free": free}
    text = f"{in_memory(found.total)} estimated, {in_memory(free)} free"
    if found.total > free:
        check.fail(f"{text}: too little", *hints)
    elif found.total > NEARLY_FULL * free:
        check.warn(f"{text}: nearly full", *hints)
    else:
        check.say(text)


def _can_train_in_half(run: Plan, method: Method) -> bool:
    """Return whether a run trains in float32 on a card that could train in bfloat16."""
    if method.dtype != "float32" or run.kind not in (devices.GPU, devices.NPU):
        return False
    return run.device is None or devices.can_compute("bfloat16", run.device)


def _name_cards(check: Check, found: Estimate, kind: str, hints: list[str]) -> None:
    """Say which cards would have enough memory, where none is here."""
    enough = next((size for size in CARDS if found.total <= NEARLY_FULL * size * GIB), None)
    text = f"{in_memory(found.total)} estimated a card; there is no {kind} here to compare it with"
    if enough is None:
        check.fail(f"{text}: more than a card of {CARDS[-1]} GiB has", *hints)
    else:
        check.say(f"{text}: a card of {enough} GiB is enough")


def _in_words(method: Method) -> str:
    sharding = f", sharding stage {method.sharding} over {method.num_shards}" if method.sharding else ""
    offload = ", optimizer on the host" if method.is_offloaded else ""
    parts = f", the decoder divided over {method.num_parts} cards" if method.num_parts > 1 else ""
    return f"{method.dtype}{' O2' if method.is_half_stored else ''}{parts}{sharding}{offload}"


def table(found: Estimate) -> dict[str, int]:
    """Return the estimate by component, in bytes."""
    return {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations": sum(found.activations.values()),
        "activations_with_recompute" if not found.is_recomputed else "activations_without": found.other_activations,
        "context": found.context,
        "total": found.total,
        "on_host": found.on_host,
    }


def _check_disk(check: Check, run: Plan, settings: RunArguments | None, found: Estimate | None) -> None:
    if found is None:
        check.skip("needs the estimate of the memory")
        return
    model_args, _, args = settings
    is_half = run.method(args).is_half_stored
    each = DTYPE_BYTES["float16" if is_half else "float32"]
    result = found.num_trained * each if model_args.lora else found.num_parameters * each
    state = found.num_trained * (MOMENTS + (DTYPE_BYTES["float32"] if is_half else 0))
    is_saved = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"
    limit = args.save_total_limit if (args.save_total_limit or 0) > 0 else None  # paddlenlp deletes nothing for 0
    check_disk(check, Path(args.output_dir), (result + state) if is_saved else 0, result, limit)


def _reason_to_skip_trial(
    diagnosis: Diagnosis, settings: RunArguments | None, found: Estimate | None, is_tried: bool
) -> str | None:
    failures = diagnosis.names(FAILED)
    if diagnosis.plan:
        return "needs the cards"
    failed = [name for name in ("device", "model") if name in failures]
    if not is_tried:
        return "not asked for"
    if settings is not None and not settings.training.do_train:
        return EVALUATES_ONLY
    if found is None or failed:
        return f"needs the {' and the '.join(failed)}, which failed" if failed else "the memory could not be estimated"
    if "memory" in failures and settings.training.device.startswith("cpu"):
        return "the machine's memory would not suffice"
    return None
