"""All checks of a run, in the order in which the run would meet the problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import device as devices
from .. import device_memory
from ..constants import DTYPE_BYTES
from ..terminal.sizes import in_memory
from ..train.arguments import RunArguments, parse
from ..train.settings import MemorySettings, Method, check_work
from ..train.sharding import sharding_words
from ..train.tensor_parallel import check_degree_asked
from .check import FAILED, Check, Diagnosis
from .inputs import RunModel, SampledRows, check_data, check_model, check_settings, load_of
from .machine import check_disk, check_versions
from .memory import MOMENTS, Estimate, advice, estimate, outline
from .operations import try_basics
from .trial import check_trial, compare_peak

NEARLY_FULL = 0.9  # of the memory: fragmentation needs the rest
EVALUATES_ONLY = "nothing would be trained: do_train is false"


def diagnose(
    values: dict[str, Any],
    *,
    template: str | None,
    config_folder: Path | None,
    num_cards: int = 1,
    is_tried: bool = True,
) -> Diagnosis:
    """Check a configuration; a check that needs the result of one that failed is skipped.

    template: as in `train.run.train`. num_cards: to estimate the memory for more cards than there are processes now.
    is_tried: load the model and train a few steps.
    """
    diagnosis, settings, model, sampled, found = Diagnosis(), None, None, None, None
    with diagnosis.check("versions") as check:
        check_versions(check)
    with diagnosis.check("device") as check:
        _check_device(check, values)
    with diagnosis.check("settings") as check:
        parsed = parse(values)
        check_work(parsed.training.do_train, parsed.training.do_eval)
        settings = parsed
        check_settings(check, settings)
    with diagnosis.check("model") as check:
        inputs = (settings, template, config_folder)
        model = check_model(check, *inputs) if settings else check.skip("needs the settings")
    with diagnosis.check("data") as check:
        sampled = check_data(check, settings, model, config_folder) if model else check.skip("needs the model")
    with diagnosis.check("memory") as check:
        found = _check_memory(check, values, settings, model, sampled, num_cards)
    with diagnosis.check("disk") as check:
        _check_disk(check, settings, found)
    with diagnosis.check("trial", is_notice_warned=False) as check:
        reason = _reason_to_skip_trial(diagnosis, settings, found, is_tried)
        if reason:
            check.skip(reason)
        else:
            check_trial(check, settings, template, config_folder, sampled, model)
            if num_cards <= settings.training.world_size:  # otherwise the estimate is for another run
                compare_peak(check, found.allocated)
    return diagnosis


def _check_device(check: Check, values: dict[str, Any]) -> None:
    wanted = values.get("device")
    device = devices.use_device(str(wanted) if wanted else None)
    memory = MemorySettings.read(values)
    asked = "float16" if memory.fp16 else "bfloat16" if memory.bf16 else "float32"
    check_device(check, device, asked if devices.can_compute(asked, device) else "float32", asked != "float32")


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


def _check_memory(
    check: Check,
    values: dict,
    settings: RunArguments | None,
    model: RunModel | None,
    sampled: SampledRows | None,
    num_cards: int,
) -> Estimate | None:
    if sampled is None:
        return check.skip("needs model and data")
    model_args, _, args = settings
    if not args.do_train:
        return check.skip(EVALUATES_ONLY)
    cards = max(num_cards, args.world_size)
    check_degree_asked(values, cards, sharding_words(values.get("sharding")))
    method = MemorySettings.read(values).method(args.device, cards, has_half=args.fp16 or args.bf16)
    load = load_of(sampled, model, settings, is_padded=devices.wants_equal_shapes())
    found = estimate(model.config, outline(model.config, model_args), load, method)
    batch = f"{len(load.lengths)} samples of {load.num_tokens:,} tokens in all, {load.num_tiles} tiles"
    check.say(f"{batch}; {found.num_trained:,} trained parameters; {_in_words(method)}")
    check.values["estimate"] = table(found)
    available = device_memory.memory_of(args.device)
    if available is None:
        check.warn(f"the memory of {args.device} is not known: compare the estimate by hand")
        return found
    total, free = available
    check.values |= {"total": total, "free": free}
    text = f"{in_memory(found.total)} estimated, {in_memory(free)} free"
    if found.total > free:
        check.fail(f"{text}: too little", *advice(found, method, len(load.lengths), cards))
    elif found.total > NEARLY_FULL * free:
        check.warn(f"{text}: nearly full", *advice(found, method, len(load.lengths), cards))
    else:
        check.say(text)
    return found


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


def _check_disk(check: Check, settings: RunArguments | None, found: Estimate | None) -> None:
    if found is None:
        check.skip("needs the estimate of the memory")
        return
    model_args, _, args = settings
    is_half = args.fp16_opt_level == "O2"
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
    failed = [name for name in ("device", "model") if name in failures]
    if not is_tried:
        return "not asked for"
    if settings is not None and not settings.training.do_train:
        return EVALUATES_ONLY
    if found is None or failed:
        return f"needs {' and '.join(failed) or 'the estimate of the memory'}, which failed"
    if "memory" in failures and settings.training.device.startswith("cpu"):
        return "the machine's memory would not suffice"
    return None
