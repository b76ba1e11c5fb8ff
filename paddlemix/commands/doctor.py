"""`paddlemix doctor`: check a training configuration on this machine, or a device without a configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..device import KINDS
from ..terminal.hidden import quiet_libraries
from .options import add_stage_options, take_settings
from .parser import SHAPES, add_examples

USAGE = "paddlemix doctor CONFIG.json [--json] [--no-trial] [--processes N] [--stage STAGE] [--key value ...]"
DEVICE_USAGE = f"paddlemix doctor --device {'|'.join(KINDS)} [--json] [--no-trial]"
MAX_PROCESSES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; CONFIG.json and --key value are the settings of the training commands."""
    take_settings(parser, USAGE, DEVICE_USAGE)
    parser.epilog = (
        "CONFIG.json and --key value: as for `paddlemix pretrain` and `paddlemix sft`; a flag overrides it. Versions, "
        "device, settings, model, data, memory and disk are checked; then two steps are trained on the longest rows, "
        "and the checkpoint is read back and compared. All files are deleted afterwards. With --device and no "
        "configuration the device itself is checked: driver, versions, each operation against the CPU, a few steps "
        "and a chat with the bundled model; paste the report into an issue. With neither, the best device of this "
        "machine is checked. Exit code 1 if anything failed. With --processes and a --device of which this machine has "
        "none, the report is a plan for a machine that has, and the missing cards are no failure."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--no-trial", action="store_true", help="do not load the model and train")
    add_stage_options(parser, "estimate the memory")
    parser.set_defaults(sets_environment=True, processes=None)
    add_examples(
        parser,
        "paddlemix doctor",
        "paddlemix doctor --device cpu",
        SHAPES,
        "paddlemix doctor paddlemix/examples/llava/tiny/example_pretrain.json --stage pretrain",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 1 if anything failed."""
    from ..device import prepare_environment
    from ..train.config_file import config_folder, read_values

    words = arguments.settings
    if arguments.processes is not None:
        checked_processes(arguments.processes)
    if not words:
        _refuse_run_options(arguments)
        return _examine(arguments, _best_device())
    values = read_values(words)
    if values.keys() == {"device"}:
        return _examine(arguments, values["device"])
    values.pop("dry_run", None)  # of a training command: it means what doctor does
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)
    with quiet_libraries("paddlemix doctor", "paddlemix.train.run"):
        return check_run(
            values,
            is_json=arguments.json,
            template="plain" if arguments.stage == "pretrain" else None,
            config_folder=config_folder(words),
            num_cards=arguments.processes,
            is_tried=not arguments.no_trial,
        )


def checked_processes(number: int) -> int:
    """Return a number of processes. Raises ValueError for one that cannot be."""
    if not 1 <= number <= MAX_PROCESSES:
        raise ValueError(f"--processes is {number}: expected at least 1 and at most {MAX_PROCESSES:,}")
    return number


def check_run(
    values: dict[str, Any],
    *,
    template: str | None,
    config_folder: Path | None,
    num_cards: int | None = None,
    is_tried: bool = True,
    is_json: bool = False,
) -> int:
    """Check a run with raw settings and print the report; return 1 if anything failed. See `run_checks.diagnose`."""
    from ..doctor.report import show
    from ..doctor.run_checks import diagnose

    diagnosis = diagnose(values, template=template, config_folder=config_folder, num_cards=num_cards, is_tried=is_tried)
    show(diagnosis, is_json=is_json)
    return int(diagnosis.has_failed)


def _best_device() -> str:
    """Return the best device of this machine, and say that it was chosen and what can be named instead."""
    from ..doctor.machine import best_kind

    kind = best_kind()
    print(
        f"paddlemix: checking {kind}, the best device found here; --device {'|'.join(KINDS)} names another one\n"
        "paddlemix: to check a training run, name its configuration: paddlemix doctor CONFIG.json",
        file=sys.stderr,
        flush=True,
    )
    return kind


def _examine(arguments: argparse.Namespace, device: object) -> int:
    """Check a device in subprocesses, because a plugin that crashes must not end the report."""
    from ..doctor.device import examine

    if not isinstance(device, str) or not device:
        raise ValueError(f"--device needs one name: {DEVICE_USAGE}")
    _refuse_run_options(arguments)
    return examine(device, is_tried=not arguments.no_trial, is_json=arguments.json)


def _refuse_run_options(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that change nothing without a configuration."""
    if arguments.processes is not None or arguments.stage != "sft":
        raise ValueError("--processes and --stage are for a configuration: name one, or leave them out")
