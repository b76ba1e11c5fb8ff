"""`paddlemix inspect-data`: show what a training configuration would read, in numbers and as the model sees it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..terminal.hidden import quiet_libraries
from ..terminal.visible import visible, visible_json
from .options import add_hub_options, add_stage_options, resolve_models, take_settings
from .parser import SHAPES, add_examples

if TYPE_CHECKING:
    from .data_report import Report

USAGE = "paddlemix inspect-data CONFIG.json [--html FILE] [--json] [--samples N] [--key value ...]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; CONFIG.json and --key value are the settings of the training commands."""
    take_settings(parser, USAGE)
    parser.epilog = "CONFIG.json and --key value: as for `paddlemix pretrain` and `paddlemix sft`; a flag overrides it."
    parser.add_argument("--html", default=None, metavar="FILE", help="also write the report as one HTML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--samples", type=int, default=20, metavar="N", help="number of random rows in the HTML file (default: 20)"
    )
    add_stage_options(parser, "count the steps")
    parser.add_argument(
        "--split", choices=("train", "eval"), default=None, help="(default: train, or eval if nothing is trained)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="number of reading processes (default: one per core, at most 8)",
    )
    add_hub_options(parser)
    add_examples(
        parser,
        SHAPES,
        "paddlemix inspect-data paddlemix/examples/llava/tiny/example_pretrain.json --stage pretrain",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; raise ValueError with the first reason why training would stop."""
    from ..output import named_file, replacing
    from .data_report import as_dict, as_html, as_text

    _check(arguments)
    page = None if arguments.html is None else named_file(arguments.html)
    if page is not None and not page.absolute().parent.is_dir():
        raise ValueError(f"--html {page}: the folder {page.absolute().parent} does not exist")
    report = _report(arguments)
    if page is not None:
        named_file(arguments.html, _read_files(arguments.settings, report))
        with replacing(page) as file:
            file.write(as_html(report, arguments.samples).encode("utf-8", "backslashreplace"))
        print(visible(f"paddlemix: wrote {page}"), file=sys.stderr)
    print(visible_json(as_dict(report)) if arguments.json else visible(as_text(report)))
    if report.problems:
        sys.stdout.flush()  # so that the error comes last
        others = len(report.problems) - 1
        more = f' ({others} more under "problems" in the report)' if others else ""
        raise ValueError(report.problems[0] + more)
    return 0


def _read_files(words: list[str], report: Report) -> list[str]:
    """Return the files that a report was made from: the configuration, the model's folder and the data files."""
    read = [report.settings.model_name_or_path, *(file.file for file in report.data.files)]
    return read if words[0].startswith("--") else [words[0], *read]


def _check(arguments: argparse.Namespace) -> None:
    for name, least, most in (("samples", 0, 10**6), ("processes", 1, 1 << 16), ("workers", 1, 256)):
        number = vars(arguments)[name]
        if number is not None and not least <= number <= most:
            raise ValueError(f"--{name} is {number}: expected at least {least} and at most {most:,}")
    if not arguments.settings:
        raise ValueError(f"name a configuration: {USAGE}")


def _report(arguments: argparse.Namespace) -> Report:
    with quiet_libraries("paddlemix inspect-data", "paddlemix.train.stages", f"{__package__}.data_report"):
        return _measured(arguments)


def _measured(arguments: argparse.Namespace) -> Report:
    from ..checkpoints.processor import LlavaProcessor
    from ..data.measure import default_workers
    from ..train.config_file import config_folder, read_values
    from ..train.settings import DataSettings
    from ..train.stages import check_start
    from .data_report import inspect_data

    words = arguments.settings
    settings = DataSettings.read(read_values(words))
    for key in ("model_name_or_path", "dataset"):
        if vars(settings)[key] is None:
            raise ValueError(f"{key} is missing: name it in the configuration or as --{key}")
    check_start(settings.model_name_or_path, config_folder(words))
    processor = LlavaProcessor.from_pretrained(*resolve_models(arguments, settings.model_name_or_path))
    template = settings.conv_mode or settings.version or ("plain" if arguments.stage == "pretrain" else None)
    return inspect_data(
        settings,
        processor.with_template(template) if template else processor,
        split=arguments.split or settings.split,
        config_folder=config_folder(words),
        num_processes=arguments.processes,
        num_workers=arguments.workers or default_workers(),
        has_progress=sys.stderr.isatty(),
    )
