"""`paddlemix prepare`: convert a public data set, as it is downloaded, to LLaVA's rows; check, join and encode rows."""

from __future__ import annotations

import argparse
from functools import partial

from .parser import add_examples, sentence

DESCRIPTION = """{description}

Expected: {files}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each converter, with the converter's arguments, and `cache`."""
    from ..prepare.converter import run as run_converter
    from ..prepare.table import CONVERTERS
    from . import prepare_cache

    prog = parser.prog
    commands = parser.add_subparsers(title="data sets and tools", required=True, metavar="NAME")
    for one in CONVERTERS.values():
        text = DESCRIPTION.format(description=one.description[0].upper() + one.description[1:], files=one.files)
        part = commands.add_parser(one.name, help=one.description, description=text)
        one.add_arguments(part)
        add_examples(part, f"{prog} {one.example}")
        part.set_defaults(work=partial(run_converter, one))
    text = "encode the data of a training configuration once, for any number of runs"
    cache = commands.add_parser("cache", help=text, description=sentence(prepare_cache.__doc__))
    prepare_cache.add_arguments(cache)
    cache.set_defaults(work=prepare_cache.run)
    parser.set_defaults(sets_environment=True)  # nothing here uses paddle


def run(arguments: argparse.Namespace) -> int:
    """Do the work that the command line names; return 1 if nothing was written."""
    return arguments.work(arguments)
