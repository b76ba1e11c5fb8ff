"""Print the figures of review files, as LLaVA's summarize_gpt_review.py.

A line for each category: points of the model in percent of the reference's, and ten times the mean points of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, and --format."""
    parser.set_defaults(sets_environment=True)  # it runs no model
    parser.add_argument("-d", "--dir", type=Path, default=None, help="folder of review files (default: this one)")
    parser.add_argument(
        "-v", "--version", choices=("0314", "0613"), default=None, help="only files of this GPT-4, by their names"
    )
    parser.add_argument("-s", "--select", nargs="*", default=[], help="only files whose names have all of these")
    parser.add_argument("-f", "--files", type=Path, nargs="*", default=[], help="review files, in --dir if given")
    parser.add_argument("-i", "--ignore", type=int, nargs="*", default=[], help="question_ids to leave out")
    parser.add_argument(
        "--format",
        choices=("head", "v1"),
        default="head",
        help="v1: as LLaVA's first version: both means, then the percentage",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the figures of each file."""
    from ..evaluate.judging.review_files import review_files, selected, summary
    from ..terminal.visible import visible

    folder = (arguments.dir or Path()).expanduser()
    is_v1 = arguments.format == "v1"
    named = sorted(folder / path.expanduser() for path in arguments.files)
    paths = named or review_files(folder, is_v1=is_v1)
    chosen = selected(paths, arguments.select, arguments.version)
    if not chosen:
        raise ValueError(f"--select and --version leave none of {len(paths)} review files")
    for path in chosen:
        print(visible("\n".join(summary(path, arguments.ignore, is_v1=is_v1))))
    return 0
