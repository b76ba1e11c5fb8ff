"""`--tensor-parallel N` of commands that answer with a model; `checkpoints.card_processes` starts the processes."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..checkpoints.card_processes import OPTION, loaded, prepare
from .loading import loading_of

if TYPE_CHECKING:
    from ..checkpoints.source import Source


def add_card_option(parser: argparse.ArgumentParser) -> None:
    """Add --tensor-parallel."""
    parser.add_argument(
        OPTION,
        "--num-gpus",  # of LLaVA's first version
        dest="tensor_parallel",
        type=int,
        default=1,
        metavar="N",
        help="divide the decoder over N cards, for models that are larger than one (default 1)",
    )


def prepare_cards(arguments: argparse.Namespace) -> None:
    """Check the number of cards, and set what paddle reads when it is imported. Raises ValueError."""
    prepare(arguments.tensor_parallel)


def loaded_on_cards(arguments: argparse.Namespace, source: Source) -> AbstractContextManager[tuple[Any, Any]]:
    """Yield the model and its processor; with --tensor-parallel this card's part, which generates as a whole would.

    source: the model's checkpoint. Raises ValueError for a number of cards that is not there, or over which the model
    cannot be divided.
    """
    return loaded(arguments.tensor_parallel, source, loading_of(arguments))
