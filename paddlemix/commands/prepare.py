"""`paddlemix prepare`: convert a public data set, as it is downloaded, to LLaVA's rows."""

from __future__ import annotations

import argparse

DESCRIPTION = """{description}

Expected: {files}

Example:
  {prog} {example}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each converter, with the converter's arguments."""
    from ..prepare.table import CONVERTERS

    prog = parser.prog
    commands = parser.add_subparsers(title="data sets and tools", required=True, metavar="NAME")
    for one in CONVERTERS.values():
        text = DESCRIPTION.format(description=one.description, files=one.files, prog=prog, example=one.example)
        raw = argparse.RawDescriptionHelpFormatter
        part = commands.add_parser(one.name, help=one.description, description=text, formatter_class=raw)
        one.add_arguments(part)
        part.set_defaults(converter=one)
    parser.set_defaults(sets_environment=True)  # nothing here uses paddle


def run(arguments: argparse.Namespace) -> int:
    """Convert; return 1 if nothing was written."""
    from ..prepare.converter import run as run_converter

    return run_converter(arguments.converter, arguments)
