"""`paddlemix completion`: let the Tab key complete commands, options, settings and paths in bash, zsh or fish."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterable

from .parser import Parser, add_examples

SHELLS = ("bash", "zsh", "fish")
HOW = {
    "bash": 'eval "$(paddlemix completion bash)"',
    "zsh": 'autoload -Uz compinit && compinit && eval "$(paddlemix completion zsh)"',
    "fish": "paddlemix completion fish | source",
}
MISSING = "shell completion needs argcomplete: pip install 'argcomplete>=3'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="your shell")
    parser.epilog = (
        "The command prints code for the shell. To have it in each new terminal, add the line for your shell to "
        "~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish."
    )
    add_examples(parser, *HOW.values())
    parser.set_defaults(sets_environment=True)  # nothing here uses paddle


def run(arguments: argparse.Namespace) -> int:
    """Print the code that registers the completion. Raises ValueError where the package for it is missing."""
    if importlib.util.find_spec("argcomplete") is None:
        raise ValueError(MISSING)
    from argcomplete.shell_integration import shellcode

    print(shellcode(["paddlemix"], shell=arguments.shell))
    return 0


def complete(parser_of: Callable[[str, str], Parser], commands: Iterable[str]) -> int:
    """Answer the shell, which asks in environment variables how a command line could go on, and end the process.

    parser_of: returns the parser of a command, given its name and how its usage calls it. Without the package nothing
    is proposed.
    """
    if importlib.util.find_spec("argcomplete") is None:
        return 1
    from argcomplete import CompletionFinder
    from argcomplete.lexers import split_line

    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    start = int(os.environ["_ARGCOMPLETE"])  # the number of words that call the program: 1, or 2 after `python`
    if len(words) > start and words[start] in commands:
        os.environ["_ARGCOMPLETE"] = str(start + 1)
        parser = with_settings(parser_of(words[start], f"paddlemix {words[start]}"))
    else:
        parser = Parser(prog="paddlemix")
        parser.add_argument("--version", action="store_true")
        parser.add_argument("command", choices=list(commands))
    _add_values(parser)
    CompletionFinder(parser, always_complete_options=False)(parser)
    return 0


def with_settings(parser: Parser) -> Parser:
    """Return a parser that knows the settings of training as options, if the command takes settings."""
    from ..train.setting_fields import listed_settings

    for one in (parser, *parser.parts().values()):
        if not one.get_default("takes_settings"):
            continue
        shown = [action.option_strings for group in one._action_groups for action in group._group_actions]
        listed = [f"--{setting.name}" for settings in listed_settings().values() for setting in settings]
        for name in dict.fromkeys([*(options[0] for options in shown if options), *listed]):
            if name not in one._option_string_actions:
                one.add_argument(name, nargs="?")
        one.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    return parser


def _add_values(parser: Parser) -> None:
    """Let the values of some options be completed that are no paths."""
    from argcomplete.completers import ChoicesCompleter

    from ..conversation.templates import TEMPLATES
    from ..device import CPU, GPU, NPU

    values = {"conv_mode": TEMPLATES, "template": TEMPLATES, "device": (GPU, NPU, CPU)}
    for one in (parser, *parser.parts().values()):
        for action in one._actions:
            if action.dest in values:
                action.completer = ChoicesCompleter(values[action.dest])
