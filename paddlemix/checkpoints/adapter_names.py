"""Names of tensors in adapters and side files: whoever trained them, on whatever copy of the base.

An adapter goes by the names of the code that it was trained with, which need not be that of the base's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..models.config import LlavaConfig
from ..models.language.families import get_family
from .adapters import Adapter, Translate
from .layouts import hf, official, paddlemix
from .layouts.components import EMBEDDING, HEAD, decoder_rules
from .rules import KeyTable

# How a layout writes a name in one way, and its table; None where the names are ours.
Names = tuple[Callable[[str], str], KeyTable | None]


def tables_of(layout: Any, config: LlavaConfig) -> list[Names]:
    """Return the names of the base's layout, of transformers, of LLaVA's own code, of a decoder alone, of PaddleMIX."""
    layouts = [layout, *(one for one in (hf, official) if one is not layout)]
    body = get_family(config.language.family).weights.body
    alone = KeyTable(decoder_rules(config.language, f"{body}.", "", is_torch=True))
    return [
        *((one.canonical, one.table(config)) for one in layouts),
        (official.canonical, alone),
        (paddlemix.canonical, paddlemix.table(config)),
    ]


def translator(tables: Sequence[Names], known: Mapping[str, tuple[str, bool]]) -> Translate:
    """Return the translation of an adapter's names; known: what else has one."""

    def translate(name: str) -> tuple[str, bool] | None:
        found = (table.to_ours(canonical(name)) for canonical, table in tables if table is not None)
        return known.get(name) or next((target for target in found if target is not None), None)

    return translate


def is_unused(name: str, config: LlavaConfig) -> bool:
    """Tell if a tensor changes nothing here: a computed buffer, a tower's head, a newline that the model lacks."""
    return (
        official.is_dropped(name, config)
        or paddlemix.is_dropped(name, config)
        or hf.is_dropped(hf.canonical(name), config)
    )


def parts_ties(adapter: Adapter, translate: Translate) -> bool:
    """Tell if an adapter changes the embeddings or the output layer of a model that ties them, but not both.

    peft adds to the one or the other layer, and leaves the shared matrix as it is. Rows of tokens are shared again.
    """
    targets = {name: (translate(name) or ("", False))[0] for name in adapter.names()}
    return any(target == HEAD or (target == EMBEDDING and name in adapter.apart) for name, target in targets.items())
