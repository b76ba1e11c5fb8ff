"""The training commands: what `paddlemix pretrain`, `paddlemix sft` and their scripts have in common."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..accelerators import explained
from ..device import prepare_environment
from ..terminal.interrupts import STOPPED, Preempted, kept_interrupts, raised_terminations
from ..terminal.log import print_error
from ..terminal.streams import standard_streams
from ..train.config_file import config_folder, convert, read_values
from ..train.peers import watched_peers
from .doctor import checked_processes
from .options import TRIAL_SETTINGS
from .parser import LIKE_AN_OPTION, nearest

TRIAL_TYPES = {"no_trial": bool, "json": bool, "processes": int}


def main(argv: list[str], *, script: str, template: str | None) -> int:
    """Train by a command line; a user's mistake is one line on standard error and code 1.

    template: name of the chat template to train, None for the model's own.
    """
    try:
        with kept_interrupts(), standard_streams(), explained():
            if not argv:
                raise ValueError(f"{script} needs a configuration: {script} CONFIG.json [--key value ...]; see --help")
            values = read_values(argv)
            with watched_peers(values):
                return _run(values, template, config_folder(argv))
    except BrokenPipeError:  # before OSError, its base class
        return 1
    except (ValueError, OSError) as error:
        print_error(error)
        return 1
    except Preempted as stop:
        gc.freeze()  # see below
        print(f"{stop}; without overwrite_output_dir the same command resumes from there", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        gc.freeze()  # otherwise Python searches all of paddle's objects at exit, for seconds
        print(
            "stopped; without overwrite_output_dir the same command resumes from the last checkpoint", file=sys.stderr
        )
        return 130


def _run(values: dict[str, Any], template: str | None, folder: Path | None) -> int:
    """Train or check. Nothing but the settings is imported before the environment for the device is set."""
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)  # parse() rejects other types
    options = {"template": template, "config_folder": folder}
    trial = _trial(values)
    with raised_terminations(lambda: import_module("paddlemix.train.run")):
        if trial is not None:
            from .doctor import check_run

            return check_run(values, **options, **trial)
        from ..train.run import train

        train(values, **options)
    return 0


def _trial(values: dict[str, Any]) -> dict[str, Any] | None:
    """Take the settings of --dry-run, doctor's options, out of a run's values; None for a run that trains.

    Raises ValueError for one of the others without it, which would change nothing.
    """
    for key in values:
        hint = nearest(key, TRIAL_SETTINGS, LIKE_AN_OPTION)
        if hint and key not in TRIAL_SETTINGS:
            raise ValueError(f"unknown setting {key!r}{hint}")
    is_dry = convert("dry_run", values.pop("dry_run", False), bool)
    given = {name: convert(name, values.pop(name), kind) for name, kind in TRIAL_TYPES.items() if name in values}
    if not is_dry:
        if given:
            raise ValueError(f"{next(iter(given))} is an option of --dry-run: add --dry-run, or leave it out")
        return None
    return {
        "is_tried": not given.get("no_trial", False),
        "is_json": given.get("json", False),
        "num_cards": checked_processes(given.get("processes", 1)),
    }
