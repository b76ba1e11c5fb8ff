"""What a LoRA run trained, sorted into the places that peft has for it: layers, modules saved whole, rows of tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import transposed
from .adapters import Adapter
from .fused_factors import joined_factors
from .layouts import hf
from .layouts.components import EMBEDDING, HEAD
from .layouts.rules import KeyTable
from .merged import Factors
from .side_files import SideFiles
from .verify import is_same

PROJECTOR, NEWLINE, TOWER = "projector.", "image_newline", "vision_tower."
MERGE = "write a merged folder instead, with `--to hf`"
# The start of a layer's name that differs between versions of transformers, or is not needed to tell layers apart.
START = re.compile(r"^(model\.)?(vision_tower\.vision_model\.)?")


@dataclass
class Modules:
    """tensors: by transformers' names, with peft's endings. layers: end of a layer's name -> its factors.

    saved: names of modules that are saved whole. tokens: name of a vocabulary -> rows that were trained alone.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    layers: dict[str, Factors] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    has_biases: bool = False
    has_lora_bias: bool = False
    is_dora: bool = False
    notes: list[str] = field(default_factory=list)


def collect(layout: SideFiles, config: LlavaConfig) -> Modules:
    """Sort what was trained. Raises CheckpointError for what peft has no place for, saying what to do."""
    adapter, is_turned = layout.changes(config)
    merged = layout.open_tensors(layout.path)
    names, modules = hf.table(config), Modules(notes=[])
    adapter = _without_unchanged(layout, adapter, merged, modules)
    _check_vocabulary(layout, adapter)
    _put_whole(adapter, merged, names, modules)
    _put_rows(adapter, names, modules)
    kept = {name: one for name, one in adapter.factors.items() if not _is_saved(name, names, modules)}
    if not kept:
        raise CheckpointError(f"{adapter.source}: no layer is left that has factors, so peft cannot load it; {MERGE}")
    _put_factors(dataclasses.replace(adapter, factors=kept), is_turned, names, modules)
    return modules


def _without_unchanged(
    layout: SideFiles, adapter: Adapter, merged: Mapping[str, StoredTensor], modules: Modules
) -> Adapter:
    """Leave out whole tensors that are as the base has them, and tell. Raises CheckpointError for a new newline."""
    stored = layout.base.open() if adapter.whole else {}
    before = {name: transposed(one) if is_turned else one for name, (one, is_turned) in stored.items()}
    same = [name for name in adapter.whole if name in before and is_same(before[name], merged[name])]
    if same:
        modules.notes.append(f"left out, as the base has the same: {preview(sorted(same), 8)}")
    if NEWLINE in set(adapter.whole) - set(same):
        raise CheckpointError(
            f"{adapter.source}: image_newline was trained, and peft has no place for it, as it is no module: {MERGE}"
        )
    return dataclasses.replace(adapter, whole={key: one for key, one in adapter.whole.items() if key not in same})


def _check_vocabulary(layout: SideFiles, adapter: Adapter) -> None:
    """Raise CheckpointError for changed embeddings over a base whose llava-hf folder has other rows."""
    changed = sorted({EMBEDDING, HEAD} & set(adapter.names()))
    rows = layout.base.config.language.vocab_size
    is_other = any(name in adapter.whole and rows not in adapter.whole[name].shape for name in changed)
    if changed and (layout.base.layout is not hf or is_other):
        raise CheckpointError(
            f"{adapter.source} changes {preview(changed)}, whose rows in a llava-hf folder are not those of the base "
            f"{layout.base.folder}: {MERGE}"
        )


def _put_whole(adapter: Adapter, merged: Mapping[str, StoredTensor], names: KeyTable, modules: Modules) -> None:
    """Put what trained whole into modules that peft saves, each with all of its tensors."""
    tower = sorted(name for name in adapter.whole if name.startswith(TOWER))
    if tower:
        raise CheckpointError(
            f"{adapter.source} holds {preview(tower, 4)} of the vision tower, whose names are others in transformers 4 "
            f"and 5, so that peft would lose them in one of them: {MERGE}"
        )
    for name in adapter.whole:
        module = _module(name)
        if name.endswith(".bias") and f"{module}.weight" in adapter.factors and not name.startswith(PROJECTOR):
            theirs = _theirs(adapter, names, name)
            modules.tensors[f"{_module(theirs)}.base_layer.bias"] = merged[name]
            modules.has_biases = True
            continue
        start = PROJECTOR if name.startswith(PROJECTOR) else f"{module}."
        for part in (one for one in merged if one.startswith(start)):
            is_turned = names.to_theirs(part)[1]
            modules.tensors[_theirs(adapter, names, part)] = transposed(merged[part]) if is_turned else merged[part]
        place = _module(_theirs(adapter, names, name))
        modules.saved.add(_end(_module(place) if start == PROJECTOR else place))


def _put_rows(adapter: Adapter, names: KeyTable, modules: Modules) -> None:
    for name, rows in adapter.rows.items():
        module = _module(_theirs(adapter, names, name))
        modules.tokens[_end(module)] = rows.numbers
        modules.tensors[f"{module}.token_adapter.trainable_tokens_delta"] = rows.values


def _put_factors(adapter: Adapter, is_turned: Mapping[str, bool], names: KeyTable, modules: Modules) -> None:
    """Put the factors of each of their matrices, joined where it holds several of ours."""
    factors = {}
    for name, one in adapter.factors.items():
        target, rule = names.to_theirs(name), names.fused_with(name)
        is_theirs_turned = target[1] if target else rule.is_transposed
        factors[name] = one.transposed if is_turned[name] != is_theirs_turned else one
    modules.is_dora = any(one.magnitude is not None for one in factors.values())
    if modules.is_dora and any(one.magnitude is None for one in factors.values()):
        raise CheckpointError(f"{adapter.source} has a magnitude for some layers only: {MERGE}")
    done = set()
    for name, one in factors.items():
        rule = names.fused_with(name)
        theirs = hf.new_style(rule.theirs) if rule else _theirs(adapter, names, name)
        if theirs in done:
            continue
        done.add(theirs)
        joined = joined_factors(rule, factors) if rule else one
        layer = _module(theirs)
        modules.layers[_end(layer)] = joined
        modules.tensors |= _parts(adapter, layer, name, joined, is_table=name == EMBEDDING or "embedding" in name)
    _put_biases(adapter, names, modules, set(factors))


def _parts(adapter: Adapter, layer: str, name: str, one: Factors, *, is_table: bool) -> dict[str, StoredTensor]:
    """Return a layer's tensors as peft stores them; is_table: it is an embedding."""
    if "patch_embedding" in name:
        raise CheckpointError(f"{adapter.source} has factors of a convolution, {name}, which are not written: {MERGE}")
    found = {f"{layer}.lora_A.weight": one.right, f"{layer}.lora_B.weight": one.left}
    if is_table:
        found = {
            f"{layer}.lora_embedding_A": transposed(one.left),
            f"{layer}.lora_embedding_B": transposed(one.right),
        }
    return found if one.magnitude is None else {**found, f"{layer}.lora_magnitude_vector": one.magnitude}


def _put_biases(adapter: Adapter, names: KeyTable, modules: Modules, factors: set[str]) -> None:
    """Put what is added to biases, which peft does for all layers or none."""
    if not adapter.added:
        return
    missing = sorted(name for name in factors if f"{_module(name)}.bias" not in adapter.added)
    if missing:
        raise CheckpointError(f"{adapter.source} adds to the biases of some layers only, not of {preview(missing, 4)}")
    modules.has_lora_bias = True
    for name, added in adapter.added.items():
        module = _module(_theirs(adapter, names, name))
        modules.tensors[f"{module}.lora_B.bias"] = added.vector


def _is_saved(name: str, names: KeyTable, modules: Modules) -> bool:
    """Tell if a layer is in a module that is saved whole, its factors merged."""
    target = names.to_theirs(name)
    return target is not None and hf.new_style(target[0]) in modules.tensors


def _theirs(adapter: Adapter, names: KeyTable, name: str) -> str:
    target = names.to_theirs(name)
    if target is None:
        raise CheckpointError(f"{adapter.source}: {name} is a part of a larger matrix in transformers: {MERGE}")
    return hf.new_style(target[0])


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _end(module: str) -> str:
    return START.sub("", module)
