"""`paddlemix doctor`: whether a training configuration works on this machine, or a device with none in mind."""

from __future__ import annotations

import argparse

USAGE = "paddlemix doctor CONFIG.json [--json] [--no-trial] [--processes N] [--stage STAGE] [--key value ...]"
DEVICE_USAGE = "paddlemix doctor --device npu|gpu|cpu [--json] [--no-trial]"

MAX_PROCESSES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options; CONFIG.json and --key value are read as the training commands read theirs."""
    parser.usage = f"{USAGE}\n       {DEVICE_USAGE}"
    parser.allow_abbrev = False  # or --max would be taken for an option
    parser.epilog = (
        "CONFIG.json and --key value: as for `paddlemix pretrain` and `paddlemix sft`; a flag overrides it. Versions, "
        "device, settings, model, data, memory and disk are checked; then two steps are trained on the longest rows, "
        "and the checkpoint is read back and compared. What it writes it deletes. With --device and no configuration "
        "the device itself is checked: driver, versions, each operation against the CPU, a few steps and a chat with "
        "the bundled model; the report is made to be pasted into an issue. Exit code 1 if anything failed."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--no-trial", action="store_true", help="do not load the model and train")
    parser.add_argument(
        "--stage", choices=("pretrain", "sft"), default="sft", help="whose template: pretrain's is plain (default: sft)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that will train, for the estimate (default: 1)"
    )
    parser.set_defaults(takes_settings=True, sets_environment=True)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return 1 if anything failed."""
    from pathlib import Path

    from ..device import prepare_environment
    from ..train.config_file import read_values

    words = arguments.settings
    if not words:
        raise ValueError(f"name a configuration: {USAGE}; or a device: {DEVICE_USAGE}")
    if not 1 <= arguments.processes <= MAX_PROCESSES:
        raise ValueError(f"--processes is {arguments.processes}: expected at least 1 and at most {MAX_PROCESSES:,}")
    values = read_values(words)
    if values.keys() == {"device"}:
        return _examine(arguments, values["device"])
    values.pop("dry_run", None)
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)
    from ..doctor.report import show
    from ..doctor.run_checks import diagnose

    diagnosis = diagnose(
        values,
        template="plain" if arguments.stage == "pretrain" else None,
        config_folder=None if words[0].startswith("--") else Path(words[0]).resolve().parent,
        num_cards=arguments.processes,
        is_tried=not arguments.no_trial,
    )
    show(diagnosis, is_json=arguments.json)
    return int(diagnosis.has_failed)


def _examine(arguments: argparse.Namespace, device: object) -> int:
    """Check a device, in processes of its own: a plugin that crashes must not end the report."""
    from ..doctor.device import examine

    if not isinstance(device, str) or not device:
        raise ValueError(f"--device needs one name: {DEVICE_USAGE}")
    if arguments.processes != 1 or arguments.stage != "sft":
        raise ValueError("--processes and --stage are for a configuration: name one, or leave them out")
    return examine(device, is_tried=not arguments.no_trial, is_json=arguments.json)
