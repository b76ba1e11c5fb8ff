"""Stored matrices that consist of several of ours (Phi-3's qkv_proj, InternLM2's wqkv, MPT's Wqkv).

They are split when read and joined when written. Both are lazy, like all of `transforms`. An adapter's change of a
fused matrix, B A, is split too: each part has all of A and its own rows of B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...tensor_files.transforms import gathered_rows, transposed
from ..adapters import Adapter, Added, Oriented
from ..changed_tensors import Factors, Merged, merged
from .rules import FusedRule, KeyTable


def as_ours(table: KeyTable | None, name: str, tensor: StoredTensor) -> dict[str, Oriented] | None:
    """Return one of their tensors under our names: one, several, or None if no rule has it.

    table: None if the names are ours. Raises CheckpointError for a fused matrix of another height.
    """
    if table is None:
        return {name: (tensor, False)}
    target = table.to_ours(name)
    if target is not None:
        return {target[0]: (tensor, target[1])}
    rule = table.fused(name)
    if rule is None:
        return None
    return {ours: (part, rule.is_transposed) for ours, part in zip(rule.ours, split(rule, tensor), strict=True)}


def split(rule: FusedRule, tensor: StoredTensor) -> list[StoredTensor]:
    """Return the rows of each part. Raises CheckpointError for another number of rows than the rule's."""
    check_height(rule, tensor)
    if isinstance(tensor, Merged):
        base, factors, dtype = tensor.sources[0], tensor.factors, tensor.dtype
        pairs = zip(split(rule, base), split_factors(rule, factors), strict=True)
        return [merged(part, own, dtype) for part, own in pairs]
    return [gathered_rows([tensor], [(0, *run) for run in runs], "split") for runs in _runs(rule)]


def check_height(rule: FusedRule, tensor: StoredTensor) -> None:
    """Raise CheckpointError if a tensor does not have the rows of all parts."""
    if not tensor.shape or tensor.shape[0] != rule.num_rows:
        times = f"{rule.num_groups} x " if rule.num_groups > 1 else ""
        parts = ", ".join(name.rpartition(".")[0].rpartition(".")[2] for name in rule.ours)
        is_swapped = tensor.shape[1:] == (rule.num_rows,)
        reason = "Its axes are swapped" if is_swapped else "It belongs to another model than config.json describes"
        raise CheckpointError(
            f"{rule.theirs} has the shape {list(tensor.shape)}, expected {rule.num_rows} rows: {times}"
            f"({' + '.join(map(str, rule.rows))}) for {parts}. {reason}"
        )


def joined(rule: FusedRule, tensors: Mapping[str, StoredTensor]) -> StoredTensor:
    """Return their matrix, made from ours. Raises CheckpointError if parts are missing or do not fit."""
    missing = [name for name in rule.ours if name not in tensors]
    if missing:
        raise CheckpointError(f"{rule.theirs} cannot be written without {preview(missing)}")
    parts = [transposed(tensors[name]) if rule.is_transposed else tensors[name] for name in rule.ours]
    runs = [[(number, *run) for run in runs] for number, runs in enumerate(_own_runs(rule))]
    in_order = [run for group in zip(*runs, strict=True) for run in group]
    return gathered_rows(parts, in_order, "joined")


def split_adapter(adapter: Adapter, tables: Sequence[tuple]) -> tuple[Adapter, dict[str, tuple[str, bool]]]:
    """Return an adapter in which tensors for fused matrices are replaced by their parts, under our names.

    tables: pairs (canonical, table) of the layouts that its names may come from. The second result has for each of our
    names the name itself and whether its axes are swapped, as `lay_over` needs it. Raises CheckpointError.
    """
    factors, whole, added, known = dict(adapter.factors), dict(adapter.whole), dict(adapter.added), {}
    for name in adapter.names():
        rule = _rule_of(tables, name)
        if rule is None:
            continue
        known |= {ours: (ours, rule.is_transposed) for ours in rule.ours}
        if name in factors:
            factors |= dict(zip(rule.ours, split_factors(rule, factors.pop(name)), strict=True))
        if name in whole:
            whole |= dict(zip(rule.ours, split(rule, whole.pop(name)), strict=True))
        if name in added:
            one = added.pop(name)
            vectors = split(rule, one.vector)
            added |= {ours: Added(vector, one.scaling) for ours, vector in zip(rule.ours, vectors, strict=True)}
    return dataclasses.replace(adapter, factors=factors, whole=whole, added=added), known


def split_factors(rule: FusedRule, factors: Factors) -> list[Factors]:
    """Return the change of each part: all of A, and its own rows of B and of DoRA's magnitude."""
    lefts = split(rule, factors.left)
    magnitudes = [None] * len(lefts) if factors.magnitude is None else split(rule, factors.magnitude)
    pairs = zip(lefts, magnitudes, strict=True)
    return [dataclasses.replace(factors, left=left, magnitude=magnitude) for left, magnitude in pairs]


def _rule_of(tables: Sequence[tuple], name: str) -> FusedRule | None:
    found = (table.fused(canonical(name)) for canonical, table in tables if table is not None)
    return next((rule for rule in found if rule is not None), None)


def _runs(rule: FusedRule) -> list[list[tuple[int, int]]]:
    """Return for each part its rows in their matrix, as ranges (start, stop)."""
    height, starts, start = sum(rule.rows), [], 0
    for num_rows in rule.rows:
        starts.append(start)
        start += num_rows
    return [
        [(group * height + start, group * height + start + num_rows) for group in range(rule.num_groups)]
        for start, num_rows in zip(starts, rule.rows, strict=True)
    ]


def _own_runs(rule: FusedRule) -> list[list[tuple[int, int]]]:
    """Return for each part its own rows, group by group."""
    groups = range(rule.num_groups)
    return [[(group * num_rows, (group + 1) * num_rows) for group in groups] for num_rows in rule.rows]
