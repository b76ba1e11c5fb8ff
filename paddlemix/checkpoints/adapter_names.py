"""Names of tensors in adapters and side files: whoever trained them, on whatever copy of the base.

An adapter goes by the names of the code that it was trained with, which need not be that of the base's folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..models.config import LlavaConfig
from ..models.language.families import get_family
from ..tensor_files.stored import CheckpointError, preview
from .adapters import Adapter, Oriented, Translate
from .layouts import hf, official, paddlemix
from .layouts.components import EMBEDDING, HEAD, decoder_rules
from .layouts.rules import KeyTable

# How a layout writes a name in one way, and its table; None where the names are ours.
Names = tuple[Callable[[str], str], KeyTable | None]


def tables_of(layout: Any, config: LlavaConfig, *, is_torch: bool) -> list[Names]:
    """Return the names of the base's layout, of transformers, of LLaVA's own code, of a decoder alone, of PaddleMIX.

    is_torch: torch's go first. NOTE: `lm_head.weight` is [vocabulary, width] there and the other way round in
    PaddleMIX, by the same name.
    """
    others = [one for one in (hf, official) if one is not layout]
    layouts = [*others, layout] if is_torch else [layout, *others]
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


def by_our_names(adapter: Adapter, translate: Translate) -> tuple[Adapter, dict[str, bool]]:
    """Return an adapter by our names, and for each of them whether the axes are swapped to be ours. Raises."""
    names = {name: translate(name) for name in adapter.names()}
    unknown = sorted(name for name, target in names.items() if target is None)
    if unknown:
        raise CheckpointError(f"{adapter.source} holds tensors that nobody knows: {preview(unknown)}")

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
    """Tell if a tensor changes nothing here: a computed buffer, a tower's head, a newline that the model lacks."""
    return (
        official.is_dropped(name, config)
        or paddlemix.is_dropped(name, config)
        or hf.is_dropped(hf.canonical(name), config)
    )


def without_unused(adapter: Adapter, config: LlavaConfig) -> Adapter:
    """Return an adapter without tensors that change nothing here, whose names it notes."""
    unused = [name for name in adapter.names() if is_unused(name, config)]
    kinds = {"factors": adapter.factors, "whole": adapter.whole, "added": adapter.added}
    kept = {
        kind: {name: change for name, change in changes.items() if name not in unused}
        for kind, changes in kinds.items()
    }
    return dataclasses.replace(adapter, **kept, dropped=(*adapter.dropped, *unused))


def check_modules(adapter: Adapter, names: Iterable[str], tables: Sequence[Names], translate: Translate) -> None:
    """Raise CheckpointError for a module that trained whole, but of which the file lacks a tensor.

    names: ours of the base's tensors.
    """
    stated = {target[0] for target in map(translate, adapter.names()) if target is not None}
    for module in adapter.modules:
        for _, table in tables:
            held = [name for name in names if table is not None and _is_below(module, table.to_theirs(name))]
            missing = sorted(set(held) - stated)
            if missing and len(missing) < len(held):
                raise CheckpointError(
                    f"{adapter.source} lacks {preview(missing, 4)} of {module}, which adapter_config.json says was "
                    "trained whole (modules_to_save): save the adapter again"
                )


def _is_below(module: str, theirs: tuple[str, bool] | None) -> bool:
    return theirs is not None and f".{module.removeprefix('model.')}." in f".{theirs[0]}."


def parts_ties(adapter: Adapter, translate: Translate, num_rows: int) -> bool:
    """Tell if an adapter changes the embeddings or the output layer of a model that ties them, but not both as one.

    peft adds to the one or the other layer, and leaves the shared matrix of num_rows as it is. Rows of tokens are
    shared again, and so are whole embeddings of a vocabulary that has grown, as no output layer has that size but them.
    """
    targets = {name: (translate(name) or ("", False))[0] for name in adapter.names()}
    if HEAD in targets.values():
        return True
    changed = [name for name, target in targets.items() if target == EMBEDDING and name in adapter.apart]
    return any(name in adapter.factors or adapter.whole[name].shape[0] == num_rows for name in changed)


def shared_before(tensors: Mapping[str, Oriented], adapter: Adapter, translate: Translate) -> Oriented:
    """Return the output layer of a model that tied it, before an adapter parts it from the embeddings.

    That is their matrix; if an adapter holds it and adds to it, as for a vocabulary that has grown, the one that it
    holds.
    """
    for name in set(adapter.whole) & set(adapter.factors):
        if translate(name) == (EMBEDDING, False):
            return adapter.whole[name], True
    embedding, is_turned = tensors[EMBEDDING]
    return embedding, not is_turned
