"""Names of tensors in adapters and other partial checkpoints.

They are the names of the code that trained the adapter, which may differ from those in the base's folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...models.config import LlavaConfig
from ...models.language.families import get_family
from ...tensor_files.stored import CheckpointError, preview
from ..adapters import Adapter, Oriented, Translate, translated_names
from . import hf, official, paddlemix
from .components import EMBEDDING, HEAD, decoder_rules
from .layout import Layout
from .rules import KeyTable

# The function that normalizes a layout's spelling of names, and its table, None if the names are ours.
Names = tuple[Callable[[str], str], KeyTable | None]


def tables_of(layout: Layout, config: LlavaConfig, *, is_torch: bool) -> list[Names]:
    """Return the names of the base's layout, of transformers, of LLaVA's own code, of a decoder alone, of PaddleMIX.

    is_torch: those of torch come first. NOTE: `lm_head.weight` is [vocabulary, width] there, but [width, vocabulary] in
    PaddleMIX, under the same name.
    """
    layouts = list(
        dict.fromkeys([layout, official.LAYOUT, hf.LAYOUT] if is_torch else [layout, hf.LAYOUT, official.LAYOUT])
    )
    layouts = layouts[::-1] if is_torch else layouts
    body = get_family(config.language.family).weights.body
    alone = KeyTable(decoder_rules(config.language, f"{body}.", "", is_torch=True))
    return [
        *((one.canonical, one.table(config)) for one in layouts),
        (official.canonical, alone),
        (paddlemix.LAYOUT.canonical, paddlemix.table(config)),
    ]


def translator(tables: Sequence[Names], known: Mapping[str, tuple[str, bool]]) -> Translate:
    """Return the translation of an adapter's names. known: further names, which come first."""

    def translate(name: str) -> tuple[str, bool] | None:
        found = (table.to_ours(canonical(name)) for canonical, table in tables if table is not None)
        return known.get(name) or next((target for target in found if target is not None), None)

    return translate


def by_our_names(adapter: Adapter, translate: Translate) -> tuple[Adapter, dict[str, bool]]:
    """Return an adapter under our names, and for each name whether its axes are swapped to be ours.

    Raises CheckpointError for unrecognized tensors.
    """
    names = translated_names(adapter, translate)

    def ours(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {names[name][0]: change for name, change in changes.items()}

    renamed = dataclasses.replace(
        adapter,
        factors=ours(adapter.factors),
        whole=ours(adapter.whole),
        rows=ours(adapter.rows),
        added=ours(adapter.added),
    )
    return renamed, dict(names.values())


def is_unused(name: str, config: LlavaConfig) -> bool:
    """Return whether a tensor changes nothing: a computed buffer, a tower's head, a newline that the model lacks."""
    return (
        official.is_dropped(name, config)
        or paddlemix.is_dropped(name, config)
        or hf.is_dropped(hf.canonical(name), config)
    )


def without_unused(adapter: Adapter, config: LlavaConfig) -> Adapter:
    """Return an adapter without the tensors that change nothing. Their names are in `dropped`."""
    unused = [name for name in adapter.names() if is_unused(name, config)]
    kinds = {"factors": adapter.factors, "whole": adapter.whole, "added": adapter.added}
    kept = {
        kind: {name: change for name, change in changes.items() if name not in unused}
        for kind, changes in kinds.items()
    }
    return dataclasses.replace(adapter, **kept, dropped=(*adapter.dropped, *unused))


def check_modules(adapter: Adapter, names: Iterable[str], tables: Sequence[Names], translate: Translate) -> None:
    """Raise CheckpointError if the file lacks a tensor of a module that was trained whole.

    names: the base's tensors, by our names.
    """
    stated = {target[0] for target in map(translate, adapter.names()) if target is not None}
    for module in adapter.modules:
        for _, table in tables:
            needed = [name for name in names if table is not None and _is_below(module, table.to_theirs(name))]
            missing = sorted(set(needed) - stated)
            if missing and len(missing) < len(needed):
                raise CheckpointError(
                    f"{adapter.source} lacks {preview(missing, 4)} of {module}, which adapter_config.json says was "
                    "trained whole (modules_to_save): save the adapter again"
                )


def _is_below(module: str, theirs: tuple[str, bool] | None) -> bool:
    return theirs is not None and f".{module.removeprefix('model.')}." in f".{theirs[0]}."


def unties(adapter: Adapter, translate: Translate, num_rows: int) -> bool:
    """Return whether an adapter changes only one of the embeddings and the output layer of a model that ties them.

    peft adds to one of the two layers, and does not change the shared matrix of num_rows. Rows of tokens are shared
    again. So are whole embeddings of a vocabulary that has grown, since the output layer needs that size too.
    """
    targets = {name: (translate(name) or ("", False))[0] for name in adapter.names()}
    if HEAD in targets.values():
        return True
    changed = [name for name, target in targets.items() if target == EMBEDDING and name in adapter.apart]
    return any(name in adapter.factors or adapter.whole[name].shape[0] == num_rows for name in changed)


def tied_head(tensors: Mapping[str, Oriented], adapter: Adapter, translate: Translate) -> Oriented:
    """Return the output layer of a model that tied it, before an adapter unties it from the embeddings.

    It is the matrix of the embeddings, or the adapter's, if that has the matrix and adds to it, as for a vocabulary
    that has grown.
    """
    for name in set(adapter.whole) & set(adapter.factors):
        if translate(name) == (EMBEDDING, False):
            return adapter.whole[name], True
    embedding, is_transposed = tensors[EMBEDDING]
    return embedding, not is_transposed
