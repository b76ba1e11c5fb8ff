"""`paddlemix eval`: score a model on benchmarks or on questions of your own."""

from __future__ import annotations

import argparse

from . import eval_compare, eval_list, eval_run, eval_score
from .parser import sentence

PARTS = {
    "list": (eval_list, "list the benchmarks, their files, prompts and rules"),
    "run": (eval_run, "ask a model the questions of benchmarks, and score the answers"),
    "score": (eval_score, "score answers that are in a file"),
    "compare": (eval_compare, "compare the answers of two runs"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each part, with its options."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, text) in PARTS.items():
        part = commands.add_parser(name, help=text, description=sentence(module.__doc__))
        module.add_arguments(part)
        part.set_defaults(part=module)


def run(arguments: argparse.Namespace) -> int:
    """Run the part that the command line names."""
    return arguments.part.run(arguments)
