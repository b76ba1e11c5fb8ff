"""The result of a LoRA run in the form of peft: factors of layers, modules saved whole, rows of tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import Derived, transposed
from .adapters import Adapter
from .changed_tensors import Factors, as_float32
from .layouts import hf
from .layouts.components import EMBEDDING, HEAD
from .layouts.fused_weights import joined
from .layouts.layout import Source
from .layouts.rules import FusedRule, KeyTable
from .verify import is_same

PROJECTOR, NEWLINE, TOWER = "projector.", "image_newline", "vision_tower."
MERGE = "write a merged folder instead, with `--to hf`"
# The start of a layer's name that differs between versions of transformers, or is not needed to distinguish layers.
START = re.compile(r"^(model\.)?(vision_tower\.vision_model\.)?")


@dataclass
class Modules:
    """The tensors of an adapter of peft, and the settings that go with them.

    tensors: by transformers' names, with peft's endings. layers: end of a layer's name -> its factors. saved: names of
    modules that are saved whole. tokens: name of a vocabulary -> numbers of rows that were trained alone.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    layers: dict[str, Factors] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    has_biases: bool = False
    has_lora_bias: bool = False
    is_dora: bool = False
    notes: list[str] = field(default_factory=list)


def collect(source: Source) -> Modules:
    """Return an adapter's changes for peft. Raises CheckpointError, with advice, for those that peft cannot hold."""
    adapter, is_swapped = source.changes()
    merged = source.tensors
    names, modules = hf.table(source.config), Modules()
    adapter = _without_unchanged(source, adapter, merged, modules)
    _check_vocabulary(source, adapter)
    _add_whole(adapter, merged, names, modules)
    _add_rows(adapter, names, modules)
    kept = {name: one for name, one in adapter.factors.items() if not _is_saved(name, names, modules)}
    if not kept:
        raise CheckpointError(f"{adapter.source}: no layer is left that has factors, so peft cannot load it; {MERGE}")
    _add_factors(dataclasses.replace(adapter, factors=kept), is_swapped, names, modules)
    return modules


def _without_unchanged(
    source: Source, adapter: Adapter, merged: Mapping[str, StoredTensor], modules: Modules
) -> Adapter:
    """Drop whole tensors that equal the base's, with a note. Raises CheckpointError for a new image_newline."""
    before = source.base.translation.in_our_orientation() if adapter.whole else {}
    same = [name for name in adapter.whole if name in before and is_same(before[name], merged[name])]
    if same:
        modules.notes.append(f"left out, as the base has the same: {preview(sorted(same), 8)}")
    if NEWLINE in set(adapter.whole) - set(same):
        raise CheckpointError(
            f"{adapter.source}: image_newline was trained, and peft has no place for it, as it is not a module: {MERGE}"
        )
    return dataclasses.replace(adapter, whole={key: one for key, one in adapter.whole.items() if key not in same})


def _check_vocabulary(source: Source, adapter: Adapter) -> None:
    """Raise CheckpointError for changed embeddings over a base whose llava-hf folder has other rows."""
    changed = sorted({EMBEDDING, HEAD} & set(adapter.names()))
    rows = source.base.config.language.vocab_size
    is_other = any(name in adapter.whole and rows not in adapter.whole[name].shape for name in changed)
    if changed and (not source.base.layout.loads_in_transformers or is_other):
        raise CheckpointError(
            f"{adapter.source} changes {preview(changed)}, whose rows in a llava-hf folder are not those of the base "
            f"{source.base.folder}: {MERGE}"
        )


def _add_whole(adapter: Adapter, merged: Mapping[str, StoredTensor], names: KeyTable, modules: Modules) -> None:
    """Add tensors that were trained whole as modules that peft saves, each with all of its tensors."""
    tower = sorted(name for name in adapter.whole if name.startswith(TOWER))
    if tower:
        raise CheckpointError(
            f"{adapter.source} holds {preview(tower, 4)} of the vision tower, whose names differ between transformers "
            f"4 and 5, so that one of them would lose them: {MERGE}"
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
            is_transposed = names.to_theirs(part)[1]
            modules.tensors[_theirs(adapter, names, part)] = transposed(merged[part]) if is_transposed else merged[part]
        place = _module(_theirs(adapter, names, name))
        modules.saved.add(_end(_module(place) if start == PROJECTOR else place))


def _add_rows(adapter: Adapter, names: KeyTable, modules: Modules) -> None:
    for name, rows in adapter.rows.items():
        module = _module(_theirs(adapter, names, name))
        modules.tokens[_end(module)] = rows.numbers
        modules.tensors[f"{module}.token_adapter.trainable_tokens_delta"] = rows.values


def _add_factors(adapter: Adapter, is_swapped: Mapping[str, bool], names: KeyTable, modules: Modules) -> None:
    """Add the factors of each matrix of transformers, joined if the matrix consists of several of ours."""
    factors = {}
    for name, one in adapter.factors.items():
        target, rule = names.to_theirs(name), names.fused_with(name)
        is_theirs_transposed = target[1] if target else rule.is_transposed
        factors[name] = one.transposed if is_swapped[name] != is_theirs_transposed else one
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
    _add_biases(adapter, names, modules, set(factors))


def _parts(adapter: Adapter, layer: str, name: str, one: Factors, *, is_table: bool) -> dict[str, StoredTensor]:
    """Return a layer's tensors as peft stores them. is_table: the layer is an embedding."""
    if "patch_embedding" in name:
        raise CheckpointError(f"{adapter.source} has factors of a convolution, {name}, which are not written: {MERGE}")
    found = {f"{layer}.lora_A.weight": one.right, f"{layer}.lora_B.weight": one.left}
    if is_table:
        found = {
            f"{layer}.lora_embedding_A": transposed(one.left),
            f"{layer}.lora_embedding_B": transposed(one.right),
        }
    return found if one.magnitude is None else {**found, f"{layer}.lora_magnitude_vector": one.magnitude}


def _add_biases(adapter: Adapter, names: KeyTable, modules: Modules, factors: set[str]) -> None:
    """Add the changes of biases, which peft has for all layers or for none."""
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
    """Return whether a layer is in a module that is saved whole, with its factors merged."""
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


def joined_factors(rule: FusedRule, factors: Mapping[str, Factors]) -> Factors:
    """Return the factors of a matrix that consists of several of ours, exactly: A below A, B along the diagonal.

    Parts that share A keep its rank, for example if an adapter of the whole matrix was split. Otherwise the rank is the
    sum of the ranks, and B is zero where a part does not use the A of another. A part without factors does not change.
    All are in torch's orientation. Raises CheckpointError for DoRA of only some parts, since it would need the norms of
    the others.
    """
    parts = [factors.get(name) for name in rule.ours]
    given = [one for one in parts if one is not None]
    is_shared = len(given) == len(parts) and all(
        one.right is given[0].right and one.scaling == given[0].scaling for one in given
    )
    magnitude = None
    if any(one.magnitude is not None for one in given):
        if any(one is None or one.magnitude is None for one in parts):
            raise CheckpointError(f"DoRA of a part of {rule.theirs} only cannot be written as that of the whole")
        magnitude = _joined(rule, [one.magnitude for one in given])
    if is_shared:
        return Factors(_joined(rule, [one.left for one in given]), given[0].right, given[0].scaling, magnitude)
    scaling = given[0].scaling
    return Factors(_diagonal(rule, parts, scaling), _stacked(given), scaling, magnitude)


def _joined(rule: FusedRule, tensors: list[StoredTensor]) -> StoredTensor:
    """Return the rows of the parts in the order of the whole matrix."""
    straight = FusedRule(rule.ours, rule.theirs, rule.rows, rule.num_groups)
    return joined(straight, dict(zip(rule.ours, tensors, strict=True)))


def _stacked(given: list[Factors]) -> StoredTensor:
    shape = (sum(one.rank for one in given), given[0].right.shape[1])
    sources = tuple(one.right for one in given)
    return Derived("float32", shape, lambda: np.concatenate([as_float32(one) for one in sources]), "joined", sources)


def _diagonal(rule: FusedRule, parts: list[Factors | None], scaling: float) -> StoredTensor:
    """Return B [rows of all, ranks of all]. Parts with another scaling than the common one are scaled by the ratio."""
    total = sum(one.rank for one in parts if one is not None)
    heights = [rule.num_groups * rows for rows in rule.rows]
    blocks, start = [], 0
    for height, one in zip(heights, parts, strict=True):
        blocks.append(_block(height, total, start, one, scaling))
        start += one.rank if one is not None else 0
    return _joined(rule, blocks)


def _block(height: int, total: int, start: int, one: Factors | None, scaling: float) -> StoredTensor:
    def read() -> np.ndarray:
        result = np.zeros((height, total), np.float32)
        if one is not None:
            result[:, start : start + one.rank] = as_float32(one.left) * np.float32(one.scaling / scaling)
        return result

    return Derived("float32", (height, total), read, "padded", () if one is None else (one.left,))
