"""The training commands: what `paddlemix pretrain`, `paddlemix sft` and their scripts have in common."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import traceback
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..accelerators import explained
from ..device import prepare_environment
from ..terminal.hidden import HiddenText, hidden_libraries
from ..terminal.interrupts import STOPPED, Preempted, kept_interrupts, raised_terminations
from ..terminal.log import print_error
from ..terminal.streams import standard_streams
from ..terminal.visible import visible, visible_line
from ..train.config_file import config_folder, convert, read_values
from ..train.peers import watched_peers
from ..train.run_folder import last_checkpoint
from ..train.settings import trains
from .doctor import checked_processes
from .options import TRIAL_SETTINGS
from .parser import LIKE_AN_OPTION, nearest

TRIAL_TYPES = {"no_trial": bool, "json": bool, "processes": int}


def main(argv: list[str], *, script: str, template: str | None) -> int:
    """Train by a command line; a user's mistake is one line on standard error and code 1.

    template: name of the chat template to train, None for the model's own.
    """
    logs: list[Path] = []
    values: dict[str, Any] = {}
    try:
        with kept_interrupts(), standard_streams(), explained():
            if not argv:
                raise ValueError(f"{script} needs a configuration: {script} CONFIG.json [--key value ...]; see --help")
            values |= read_values(argv)
            with watched_peers(values):
                return _run(values, template, config_folder(argv), logs)
    except BrokenPipeError:  # before OSError, its base class
        return 1
    except (ValueError, OSError) as error:
        print_error(error)
        _name_log(logs)
        return 1
    except Exception as error:
        if not logs:
            raise  # with its traceback
        with logs[0].open("a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
        print_error(RuntimeError(f"{type(error).__name__}: {error}"))
        _name_log(logs)
        return 1
    except Preempted as stop:
        gc.freeze()  # see below
        print(f"{stop}{how_to_resume(values, script, argv)}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        gc.freeze()  # otherwise Python searches all of paddle's objects at exit, for seconds
        print(f"stopped{how_to_resume(values, script, argv)}", file=sys.stderr)
        return 130


def how_to_resume(values: dict[str, Any], script: str, argv: list[str]) -> str:
    """Return the end of a message on a run that was stopped: its last checkpoint, and how it goes on from there.

    values: the raw settings, none if they were not read yet. "" for a command that trains nothing.
    """
    folder = values.get("output_dir")
    try:
        is_training = trains(*(convert(key, values.get(key), bool | None) for key in ("do_train", "do_eval")))
        if not isinstance(folder, str) or "dry_run" in values or not is_training:
            return ""
        last = last_checkpoint(folder)
    except (ValueError, OSError):  # what would have ended the run as well
        return ""
    if last is None:
        return f"; there is no checkpoint in {visible_line(folder)}: the same command starts at step 1"
    is_anew = str(values.get("overwrite_output_dir")).lower() in ("true", "1", "yes")
    if not (is_anew or values.get("resume_from_checkpoint")):
        return f"; the last checkpoint is {visible_line(str(last))}: the same command resumes from there"
    start = "with overwrite_output_dir it starts at step 1" if is_anew else "it starts from resume_from_checkpoint"
    words = visible_line(shlex.join([*argv, "--resume_from_checkpoint", "true"]))
    return (
        f"; the last checkpoint is {visible_line(str(last))}\n"
        f"the same command does not resume from there ({start}); this one does:\n  {script} {words}"
    )


def _name_log(logs: list[Path]) -> None:
    """Say where the messages of libraries are that came before an error, if the run has begun."""
    for path in logs:
        print(f"log: {visible_line(str(path))} has what libraries printed before the error", file=sys.stderr)


def _run(values: dict[str, Any], template: str | None, folder: Path | None, logs: list[Path]) -> int:
    """Train or check. Nothing but the settings is imported before the environment for the device is set.

    logs: gets the path of the file with hidden messages, as soon as there is one.
    """
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)  # parse() rejects other types
    is_verbose = convert("verbose", values.pop("verbose", False), bool)
    options = {"template": template, "config_folder": folder}
    trial = _trial(values)
    is_first = os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    showing = nullcontext() if is_verbose else hidden_libraries(is_first, " ".join(sys.argv))
    with showing as hidden, raised_terminations(partial(_load, hidden)):
        if trial is not None:
            from .doctor import check_run

            return check_run(values, **options, **trial)
        _train(values, options, hidden, logs)
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
        "num_cards": checked_processes(given["processes"]) if "processes" in given else None,
    }


def _load(hidden: HiddenText | None) -> None:
    """Import what trains."""
    with nullcontext() if hidden is None else hidden.importing():
        import_module("paddlemix.train.run")


def _train(values: dict[str, Any], options: dict[str, Any], hidden: HiddenText | None, logs: list[Path]) -> None:
    """Train. The messages of libraries go to a file as soon as the run has begun."""
    from ..train.run import train

    def begin(path: Path) -> None:
        hidden.move_to(path)
        logs.append(path)

    try:
        train(values, **options, begin=None if hidden is None else begin)
    except (ValueError, OSError):
        raise
    except Exception:  # no mistake of a user: what libraries said before may explain it
        if hidden is not None:
            print(visible(hidden.text()), end="", file=sys.stderr)
        raise
