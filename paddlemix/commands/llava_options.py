"""What the commands of LLaVA's demo have in common: options that mean nothing here are named, not dropped."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ..device import device_name


def add_unused(parser: argparse.ArgumentParser, unused: Mapping[str, str], *, is_switch: bool = False) -> None:
    """Add options of LLaVA that change nothing. unused: their names with the reason."""
    for option, reason in unused.items():
        kind = {"action": "store_true"} if is_switch else {"default": None}
        parser.add_argument(option, help=f"not used: {reason}", **kind)


def name_unused(arguments: argparse.Namespace, unused: Mapping[str, str]) -> None:
    """Print a notice for each of these options that was given."""
    from ..terminal.log import notice

    for option, reason in unused.items():
        if getattr(arguments, field_of(option)):
            notice(f"{option} is not used: {reason}")


def refuse(arguments: argparse.Namespace, refused: Mapping[str, str]) -> None:
    """Raise ValueError for the first of these options that was given: it asks for something that is not here."""
    for option, reason in refused.items():
        if getattr(arguments, field_of(option)):
            raise ValueError(f"{option}: {reason}")


def field_of(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def device_of(name: str | None) -> str | None:
    """Return a device of LLaVA in our words: cuda:1 is gpu:1."""
    return device_name(name) if name else None
