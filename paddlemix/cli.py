"""The command `paddlemix`: the table of commands, and what all of them have in common."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable

from . import __version__
from .accelerators import explained
from .commands.completion import complete
from .commands.parser import MODEL, Parser, add_examples, nearest, sentence
from .device import device_name, prepare_environment
from .terminal.interrupts import STOPPED, Preempted, kept_interrupts
from .terminal.log import print_error
from .terminal.streams import standard_streams

# Task -> name of a command -> help line. The command is the module of that name in commands/, with
# add_arguments(parser) and run(arguments).
TASKS = {
    "chat and serve": {
        "chat": "talk with a model about images",
        "serve": "serve a model to OpenAI clients and on a web page",
    },
    "data": {
        "prepare": "convert a public data set, as it is downloaded, to LLaVA's rows; check, join and encode rows",
        "inspect-data": "show what a training configuration would read, in numbers and as the model sees it",
    },
    "train": {
        "pretrain": "stage 1: train the projector",
        "sft": "stage 2: fine-tune the whole model, or with LoRA",
    },
    "weights": {
        "inspect": "show what a checkpoint is, what it contains and what is missing",
        "convert": "convert a checkpoint to another layout",
        "merge": "merge a LoRA adapter into its base model",
        "compose": "make a model to start training from, out of a language model and a vision tower",
        "extract-projector": "write a model's projector to a file",
        "apply-delta": "add delta weights to their base model",
        "make-delta": "subtract a base model from a model",
    },
    "evaluate": {
        "eval": "score a model on benchmarks or on questions of your own",
    },
    "check": {
        "doctor": "check a training configuration or a device on this machine, with a short trial run",
        "bench": "measure how fast a model is on this machine",
        "completion": "let the Tab key complete commands, options and paths in your shell",
    },
}
COMMANDS = {name: text for commands in TASKS.values() for name, text in commands.items()}
DESCRIPTION = (
    "LLaVA 1.5 and 1.6 on PaddlePaddle: chat about images, train, evaluate, serve. For CUDA, Ascend NPU and CPU."
)


def main(argv: list[str] | None = None) -> int:
    """Run the command that a command line names; return the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # set by what `paddlemix completion` prints
        return complete(command_parser, COMMANDS)
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_command(argv[0], argv[1:], prog=f"paddlemix {argv[0]}")
    return _guarded(lambda: _show_commands(argv))


def run_command(name: str, words: list[str], *, prog: str | None = None) -> int:
    """Run one command; return its exit code. prog: how its usage calls it (None: the name of the script)."""
    return _guarded(lambda: _run(name, words, prog))


def command_parser(name: str, prog: str | None = None) -> Parser:
    """Return the parser of a command; its default `run` is the command's function."""
    module = importlib.import_module(f".commands.{name.replace('-', '_')}", __package__)
    parser = Parser(prog=prog, description=sentence(module.__doc__))
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def _run(name: str, words: list[str], prog: str | None) -> int:
    arguments = command_parser(name, prog).parse(words)
    if device := vars(arguments).get("device"):
        arguments.device = device_name(device)
    if "sets_environment" not in arguments:
        prepare_environment(device)
    return arguments.run(arguments)


def _show_commands(argv: list[str]) -> int:
    """Print the commands or the version, or exit with an error for a command line that names no command."""
    parser = Parser(prog="paddlemix", usage="paddlemix COMMAND [options]", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"paddlemix {__version__}")
    for task, commands in TASKS.items():
        group = parser.add_argument_group(task)
        for name, text in commands.items():
            group._group_actions.append(argparse.Action([], dest=name, help=text, metavar=name))
    parser.epilog = "`paddlemix COMMAND --help` shows the options of a command."
    add_examples(parser, "paddlemix chat", f"paddlemix inspect {MODEL}")
    if argv and not argv[0].startswith("-"):
        parser.error(f"unknown command {argv[0]}{nearest(argv[0], COMMANDS) or '; --help lists the commands'}")
    parser.parse(argv)
    parser.print_help()
    return 0


def _guarded(action: Callable[[], int]) -> int:
    """Return the exit code of an action. A user's mistake is one line on standard error and code 1."""
    try:
        with kept_interrupts(), standard_streams(), explained():
            return action()
    except BrokenPipeError:  # before OSError, which it is too
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        print_error(error)
        return 1
    except Preempted as stop:
        gc.freeze()  # see below
        print(stop, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        gc.freeze()  # otherwise Python searches all of paddle's objects at exit, for seconds
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
