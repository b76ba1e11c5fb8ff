"""All checks of a run, in the order in which a run would stumble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import device as devices
from ..terminal.sizes import in_memory
from ..train.arguments import parse
from ..train.settings import check_work
from .check import Check, Diagnosis
from .inputs import Home, Sampled, check_data, check_model, check_settings, load_of
from .machine import check_device, check_disk, check_versions
from .memory import MOMENTS, Estimate, Method, advice, estimate, outline
from .memory_settings import MemorySettings
from .trial import check_trial, compare_peak

NEARLY_FULL = 0.9  # of the memory: fragments need the rest
NO_CHECKPOINTS = "no"
EVALUATES_ONLY = "nothing would be trained: do_train is false"


def diagnose(
    values: dict[str, Any],
    *,
    template: str | None,
    config_folder: Path | None,
    num_cards: int = 1,
    is_tried: bool = True,
) -> Diagnosis:
    """Check a configuration; later checks are left out where an earlier one took away what they need.

    template: as in `run.train`. num_cards: for the estimate, where more cards will train than processes run now.
    is_tried: load the model and train a little.
    """
    diagnosis, settings, home, sampled, found = Diagnosis(), None, None, None, None
    with diagnosis.check("versions") as check:
        check_versions(check)
    with diagnosis.check("device") as check:
        _check_device(check, values)
    with diagnosis.check("settings") as check:
        parsed = parse(values)
        check_work(parsed[2].do_train, parsed[2].do_eval)
        settings = parsed
        check_settings(check, settings)
    with diagnosis.check("model") as check:
        home = check_model(check, settings, template) if settings else check.skip("needs the settings")
    with diagnosis.check("data") as check:
        if home is None:
            check.skip("needs the model's tokenizer")
        else:
            wanted = {"train": settings[2].do_train, "eval": settings[2].do_eval}
            splits = [split for split, is_read in wanted.items() if is_read]
            sampled = check_data(check, values, home, splits, config_folder)
    with diagnosis.check("memory") as check:
        if sampled is None:
            check.skip("needs model and data")
        elif not settings[2].do_train:
            check.skip(EVALUATES_ONLY)
        else:
            found = _check_memory(check, values, settings, home, sampled, num_cards)
    with diagnosis.check("disk") as check:
        if found is None:
            check.skip("needs the estimate of what trains")
        else:
            _check_disk(check, settings, found)
    with diagnosis.check("trial", is_notice_warned=False) as check:
        _try(check, diagnosis, settings, template, config_folder, home, sampled, found, is_tried, num_cards)
    return diagnosis


def _check_device(check: Check, values: dict[str, Any]) -> None:
    wanted = values.get("device")
    device = devices.use_device(str(wanted) if wanted else None)
    memory = MemorySettings.read(values)
    asked = "float16" if memory.fp16 else "bfloat16" if memory.bf16 else "float32"
    check_device(check, device, asked if devices.can_compute(asked, device) else "float32", asked != "float32")


def _check_memory(check: Check, values, settings, home: Home, sampled: Sampled, num_cards: int) -> Estimate:
    model_args, _, args = settings
    memory, cards = MemorySettings.read(values), max(num_cards, args.world_size)
    method = memory.method(args.device, cards, has_half=args.fp16 or args.bf16)
    load = load_of(sampled, home, settings, is_padded=devices.wants_equal_shapes())
    found = estimate(home.config, outline(home.config, model_args), load, method)
    of = f"{len(load.lengths)} samples of {load.num_tokens:,} tokens together, {load.num_tiles} tiles"
    check.say(f"{of}; {found.num_trained:,} parameters train; {_how(method)}")
    check.values["estimate"] = table(found)
    available = devices.device_memory(args.device)
    if available is None:
        check.warn(f"{args.device} does not tell its memory: compare the estimate by hand")
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


def _how(method: Method) -> str:
    sharding = f", sharding stage {method.sharding} over {method.num_shards}" if method.sharding else ""
    offload = ", optimizer on the host" if method.is_offloaded else ""
    return f"{method.dtype}{' O2' if method.is_half_stored else ''}{sharding}{offload}"


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


def _check_disk(check: Check, settings, found: Estimate) -> None:
    model_args, _, args = settings
    each = 2 if args.fp16_opt_level == "O2" else 4
    result = found.num_trained * each if model_args.lora else found.num_parameters * each
    state = found.num_trained * (MOMENTS + (4 if each == 2 else 0))
    writes = str(getattr(args.save_strategy, "value", args.save_strategy)) != NO_CHECKPOINTS
    limit = args.save_total_limit if (args.save_total_limit or 0) > 0 else None  # paddlenlp deletes nothing for 0
    check_disk(check, Path(args.output_dir), (result + state) if writes else 0, result, limit)


def _try(check: Check, diagnosis, settings, template, config_folder, home, sampled, found, is_tried, num_cards) -> None:
    memory = next(one for one in diagnosis.checks if one.name == "memory")
    failed = [one.name for one in diagnosis.checks if one.status == "FAILED" and one.name in ("device", "model")]
    if not is_tried:
        check.skip("not asked for")
    elif settings is not None and not settings[2].do_train:
        check.skip(EVALUATES_ONLY)
    elif found is None or failed:
        check.skip(f"needs what failed above{': ' + ', '.join(failed) if failed else ''}")
    elif memory.status == "FAILED" and settings[2].device.startswith("cpu"):
        check.skip("the machine's memory would run out")
    else:
        check_trial(check, settings, template, config_folder, sampled, home)
        if num_cards <= settings[2].world_size:  # else the estimate is of another run
            compare_peak(check, found.allocated)
