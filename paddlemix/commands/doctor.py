"""`paddlemix doctor`: whether a training configuration works on this machine, before the first step."""

from __future__ import annotations

import argparse

USAGE = "paddlemix doctor CONFIG.json [--json] [--no-trial] [--processes N] [--stage STAGE] [--key value ...]"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command's options; CONFIG.json and --key value are read as the training commands read theirs."""
    parser.usage = USAGE
    parser.allow_abbrev = False  # or --max would be taken for an option
    parser.epilog = (
        "CONFIG.json and --key value: as for `paddlemix pretrain` and `paddlemix sft`; a flag overrides it. Versions, "
        "device, settings, model, data, memory and disk are checked; then two steps are trained on the longest rows, "
        "and the checkpoint is read back and compared. What it writes it deletes. Exit code 1 if anything failed."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--no-trial", action="store_true", help="do not load the model and train")
    parser.add_argument(
        "--stage", choices=("pretrain", "sft"), default="sft", help="whose template: pretrain's is plain (default: sft)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that will train, for the estimate (default: 1)"
    )
    parser.set_defaults(takes_settings=True)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return 1 if anything failed."""
    from pathlib import Path

    from ..device import prepare_environment
    from ..train.values import read_values

    words = arguments.settings
    if not words:
        raise ValueError(f"name a configuration: {USAGE}")
    if arguments.processes < 1:
        raise ValueError(f"--processes is {arguments.processes}: expected at least 1")
    values = read_values(words)
    values.pop("dry_run", None)
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)
    from ..train.checks.doctor import diagnose
    from ..train.checks.text import show

    diagnosis = diagnose(
        values,
        template="plain" if arguments.stage == "pretrain" else None,
        config_folder=None if words[0].startswith("--") else Path(words[0]).resolve().parent,
        num_cards=arguments.processes,
        is_tried=not arguments.no_trial,
    )
    show(diagnosis, is_json=arguments.json)
    return int(diagnosis.has_failed)
