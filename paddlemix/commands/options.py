"""Options that several commands share. No command's work is imported here, so that `--help` loads nothing."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..constants import BUNDLED_MODEL
from ..conversation.templates import TEMPLATES
from ..device import DEVICE_NAMES
from .parser import add_examples

DTYPES = ("float32", "float16", "bfloat16")
# Options of `paddlemix doctor` that the training commands take as settings.
TRIAL_SETTINGS = {
    "verbose": "show what libraries print too, which otherwise only run.log in output_dir has",
    "dry_run": "check the run on this machine, with a trial of a few steps, and end",
    "no_trial": "with --dry_run: do not load the model and train",
    "json": "with --dry_run: print one JSON object instead of text",
    "processes": "with --dry_run: number of training processes, to estimate the memory (default: 1)",
}


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add --hub and --revision to a command that takes the name of a model."""
    parser.add_argument(
        "--hub",
        default=None,
        metavar="HUB",
        help="where to get a model that is not on this machine: auto, paddle, hf, modelscope or the address of a "
        "web folder with NAME/config.json (default: $PADDLEMIX_HUB, else auto, which tries one after the other)",
    )
    parser.add_argument("--revision", default=None, help="branch, tag or commit of the model on its hub")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a model."""
    parser.add_argument(
        "--model-path", default=BUNDLED_MODEL, help="model folder, or its name on a hub (default: the tiny model)"
    )
    parser.add_argument("--model-base", default=None, help="base model of the adapter or projector in --model-path")
    parser.add_argument("--device", default=None, help=f"{DEVICE_NAMES} (default: the best)")
    parser.add_argument("--dtype", default=None, choices=DTYPES, help="dtype of the weights (default: as stored)")
    add_hub_options(parser)


def add_template_option(parser: argparse.ArgumentParser, name: str, default: str) -> None:
    """Add the option that chooses a chat template. default: in words."""
    text = f"chat template: {', '.join(TEMPLATES)} (default: {default})"
    parser.add_argument(name, default=None, metavar="NAME", help=text)


def add_delta_options(parser: argparse.ArgumentParser, *, delta: str, target: str) -> None:
    """Add the options of delta weights. delta, target: help of the two folders, one of which is read, one written."""
    folders = (("base", "the base model, a LLaMA folder"), ("delta", delta), ("target", target))
    for name, text in folders:
        other = "--delta-path" if name == "delta" else f"--{name}-model-path"
        parser.add_argument(f"--{name}", other, required=True, metavar="DIR", help=text)
    add_output_options(parser)
    add_hub_options(parser)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --max-shard-size and --overwrite to a command that writes a model folder."""
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="maximum size of a weight file (default: 5GB)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that has other contents")


def add_training_settings(parser: argparse.ArgumentParser, *examples: str) -> None:
    """Let a training command take `CONFIG.json --key value ...` as its `settings`, and list them in its help."""
    take_settings(parser, f"{parser.prog} CONFIG.json [--key value ...]", f"{parser.prog} --key value ...")
    parser.description = (
        f"{parser.description}\n\nThe settings stand in CONFIG.json, a JSON object of keys and values, as the files in "
        "paddlemix/config/llava/; a flag overrides the file."
    )
    check = parser.add_argument_group("check only", "everything is checked as by `paddlemix doctor`; nothing trains")
    for name, text in TRIAL_SETTINGS.items():
        show_setting(check, name, text)
    list_settings(parser)
    parser.epilog = (
        "The other keys of paddlenlp's TrainingArguments work too. --key alone is true, and --key a b a list. "
        "model_name_or_path, dataset and output_dir are required."
    )
    add_examples(parser, *examples)
    parser.set_defaults(sets_environment=True)


def list_settings(parser: argparse.ArgumentParser) -> None:
    """Show the settings of a training run in the help, in groups."""
    from ..train.setting_fields import listed_settings

    for title, settings in listed_settings().items():
        group = parser.add_argument_group(title)
        for name, text in settings:
            show_setting(group, name, text)


def show_setting(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    """Add a line about a setting to a help. The parser does not know it as an option: settings are read elsewhere."""
    text = text.replace("%", "%%")
    group._group_actions.append(argparse.Action([f"--{name}"], dest=name, nargs=0, help=text))


def add_stage_options(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --stage and --processes to a command that looks at a training run. purpose: of the number of processes."""
    parser.add_argument(
        "--stage",
        choices=("pretrain", "sft"),
        default="sft",
        help="stage whose chat template is used: pretrain uses plain (default: sft)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help=f"number of training processes, to {purpose} (default: 1)",
    )


def take_settings(parser: argparse.ArgumentParser, *usages: str) -> None:
    """Let a command take the settings of a training run: all words that are not its own options."""
    parser.usage = "\n       ".join(usages)
    parser.allow_abbrev = False  # or --max would count as one of the command's options
    parser.set_defaults(takes_settings=True)


def output_options(arguments: argparse.Namespace, title: str) -> dict[str, Any]:
    """Return how to write a model folder. title: of the progress bar, which only a terminal shows."""
    return {
        "max_shard_size": arguments.max_shard_size,
        "title": title if sys.stderr.isatty() else None,
        "is_overwriting": arguments.overwrite,
    }


def positive(text: str) -> int:
    """Return a number of an option. Raises ArgumentTypeError below 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number of at least `least`."""

    def whole_number(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is too small: expected at least {least}")
        return int(text)

    return whole_number


def resolve_models(arguments: argparse.Namespace, *names: str) -> list[Path]:
    """Return the folders of models, downloaded if they are not on this machine."""
    from ..hub.resolve import resolve

    return [resolve(name, hub=arguments.hub, revision=arguments.revision) for name in names]
