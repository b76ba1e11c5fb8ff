"""The command `paddlemix`: the table of commands, and what all of them have in common."""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping

from . import __version__
from .accelerators import explained
from .device import prepare_environment
from .terminal.interrupts import kept_interrupts
from .terminal.log import print_error
from .terminal.streams import standard_streams
from .terminal.visible import visible

# Name -> help line. The command is the module of that name in commands/, with add_arguments(parser) and run(arguments).
COMMANDS = {
    "chat": "talk with a model about images",
    "serve": "serve a model to OpenAI clients and on a web page",
    "pretrain": "stage 1: train the projector",
    "sft": "stage 2: fine-tune the whole model, or with LoRA",
    "merge": "merge a LoRA adapter into its base model",
    "convert": "convert a checkpoint to another layout",
    "inspect": "show what a checkpoint is, what it contains and what is missing",
    "inspect-data": "show what a training configuration would read, in numbers and as the model sees it",
    "doctor": "check a training configuration or a device on this machine, with a short trial run",
    "compose": "make a model to start training from, out of a language model and a vision tower",
    "extract-projector": "write a model's projector to a file",
    "apply-delta": "add delta weights to their base model",
    "make-delta": "subtract a base model from a model",
    "prepare": "convert a public data set, as it is downloaded, to LLaVA's rows; check, join and encode rows",
    "eval": "score a model on benchmarks or on questions of your own",
    "bench": "measure how fast a model is on this machine",
}
LIKE_AN_OPTION = 0.8  # similarity from which a setting counts as a mistyped option


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be printed safely, and name the nearest option or command."""

    def error(self, message: str):
        super().error(visible(message))

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the arguments; words that are not options go to `settings` if the command takes settings."""
        part = self._named_part(words)
        if part is not None:
            return argparse.Namespace(**{**self._defaults, **vars(part.parse(words[1:]))})
        takes_settings = bool(self.get_default("takes_settings"))
        if not takes_settings:  # of settings, as dry_run, some have the name of an option and another form
            words = self._in_our_spelling(words)
        self._check_options(words, takes_settings)
        arguments, rest = self.parse_known_args(words)
        if takes_settings:
            arguments.settings = rest
        elif rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments

    def _named_part(self, words: list[str]) -> Parser | None:
        """Return the parser of the part that the first word names, None for a command without parts.

        Exits for a word that names none.
        """
        if self._subparsers is None or not words or words[0].startswith("-"):
            return None
        parts = self._subparsers._group_actions[0].choices
        if words[0] not in parts:
            self.error(f"unknown name {words[0]}{nearest(words[0], parts) or '; --help lists the names'}")
        return parts[words[0]]

    def _in_our_spelling(self, words: list[str]) -> list[str]:
        """Return the words with options as they are declared: --data_dir is --data-dir, --image-dir is --image_dir."""
        known = {option.replace("_", "-"): option for option in self._option_string_actions}
        end = words.index("--") if "--" in words else len(words)
        parts = [word.partition("=") for word in words[:end]]
        return [self._declared(name, known) + sign + value for name, sign, value in parts] + words[end:]

    def _declared(self, name: str, known: Mapping[str, str]) -> str:
        is_other = name.startswith("--") and name not in self._option_string_actions
        return known.get(name.replace("_", "-"), name) if is_other else name

    def _check_options(self, words: list[str], takes_settings: bool) -> None:
        """Exit for the first unknown option, before a missing one is reported. A setting may have any other name."""
        known = list(self._option_string_actions)
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            is_abbreviation = self.allow_abbrev and any(option.startswith(name) for option in known)
            if not name.startswith("--") or name in known or is_abbreviation:
                continue
            hint = nearest(name, known, LIKE_AN_OPTION if takes_settings else 0.6)
            if hint or not takes_settings:
                self.error(f"unknown option {name}{hint or '; --help lists the options'}")


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return the end of an error text that names the nearest known name, "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=similarity)
    return f": did you mean {near[0]}?" if near else ""


def main(argv: list[str] | None = None) -> int:
    """Run the command that a command line names; return the exit code."""
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
    parser = Parser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def _run(name: str, words: list[str], prog: str | None) -> int:
    arguments = command_parser(name, prog).parse(words)
    if "sets_environment" not in arguments:
        prepare_environment(vars(arguments).get("device"))
    return arguments.run(arguments)


def _show_commands(argv: list[str]) -> int:
    """Print the help or the version, or exit with an error for a command line that names no command."""
    parser = Parser(prog="paddlemix", description="LLaVA v1.5 and v1.6 on PaddlePaddle")
    parser.add_argument("--version", action="version", version=f"paddlemix {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    if argv and not argv[0].startswith("-"):
        parser.error(f"unknown command {argv[0]}{nearest(argv[0], COMMANDS) or '; --help lists the commands'}")
    parser.parse(argv)
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
    except KeyboardInterrupt:
        gc.freeze()  # otherwise Python searches all of paddle's objects at exit, for seconds
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
