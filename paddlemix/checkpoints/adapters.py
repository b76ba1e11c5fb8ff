"""The result of a LoRA run in any format, applied to the tensors of its base without loading either.

`merged` computes the changes when a merged tensor is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..models.language.families import FAMILIES
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import transposed
from .changed_tensors import Factors, Rows, merged, num_columns, plus, with_rows

# Ends of the names of embeddings and heads, ours and those of every family.
VOCABULARY = tuple(
    {f"{family.weights.of(name)}.weight" for family in FAMILIES.values() for name in ("embed_tokens", "lm_head")}
)
# A tensor and whether its axes have to be swapped to be ours.
Oriented = tuple[StoredTensor, bool]
Translate = Callable[[str], tuple[str, bool] | None]


@dataclass(frozen=True)
class Added:
    """A vector that is added after multiplication by scaling."""

    vector: StoredTensor
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """The tensors that were trained.

    source: the file or folder, for messages. factors: name of a weight -> the factors of its change. whole: tensors
    that replace the base's, or that the base lacks. rows: matrices of which some rows are replaced. added: biases to
    which a vector is added. dropped: stored names that change nothing. trains_bias: the setting of adapter_config.json
    for biases if they were trained. apart: names whose change does not apply to a tied tensor. modules: ends of names
    of modules that the file holds whole.
    """

    source: Path
    factors: Mapping[str, Factors] = field(default_factory=dict)
    whole: Mapping[str, StoredTensor] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    added: Mapping[str, Added] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    trains_bias: str | None = None
    apart: frozenset[str] = frozenset()
    modules: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the names of all tensors that it changes."""
        return tuple(dict.fromkeys((*self.whole, *self.rows, *self.factors, *self.added)))


def lay_over(
    tensors: Mapping[str, Oriented], adapter: Adapter, translate: Translate, merge_dtype: str | None = None
) -> dict[str, Oriented]:
    """Return the base's tensors with an adapter merged into them.

    translate: from the adapter's name of a tensor to (name in `tensors`, whether its axes are swapped there), None for
    an unrecognized tensor. merge_dtype: of the merged matrices, None for the base's.
    Raises CheckpointError for tensors that are not recognized or do not fit the base.
    """
    names = translated_names(adapter, translate)
    _check_once(adapter, names)
    _check_biases(tensors, adapter, names)
    result, wrong = dict(tensors), []
    for name, tensor in adapter.whole.items():
        target, is_transposed = names[name]
        if not _may_replace(result.get(target), tensor, is_transposed, target):
            wrong.append(f"{name} {list(tensor.shape)}")
        result[target] = (tensor, is_transposed)
    for name, change, shape in _changes(adapter):  # last: a layer may be trained whole and with factors
        target, is_transposed = names[name]
        changed = _changed(result.get(target), change, is_transposed, merge_dtype)
        if changed is None:
            wrong.append(f"{name} {shape}")
        else:
            result[target] = changed
    if wrong:
        raise CheckpointError(
            f"{adapter.source} was trained on another model, these do not fit the base: {preview(wrong)}"
        )
    return result


def translated_names(adapter: Adapter, translate: Translate) -> dict[str, tuple[str, bool]]:
    """Return what `translate` returns for each name of an adapter. Raises CheckpointError for unrecognized tensors."""
    names = {name: translate(name) for name in adapter.names()}
    unknown = sorted(name for name, target in names.items() if target is None)
    if unknown:
        raise CheckpointError(f"{adapter.source} holds unrecognized tensors: {preview(unknown)}")
    return names


def _changes(adapter: Adapter) -> Iterator[tuple[str, Factors | Rows | Added, list[int]]]:
    """Yield (name, change, its shape), in the order in which they are applied."""
    for name, rows in adapter.rows.items():
        yield name, rows, list(rows.values.shape)
    for name, factors in adapter.factors.items():
        yield name, factors, list(factors.shape)
    for name, added in adapter.added.items():
        yield name, added, list(added.vector.shape)


def _changed(
    base: Oriented | None, change: Factors | Rows | Added, is_transposed: bool, merge_dtype: str | None
) -> Oriented | None:
    """Return a tensor of the base with a change applied, None if they do not fit.

    is_transposed: the axes of the change have to be swapped to be ours.
    """
    if base is None:
        return None
    tensor, is_base_transposed = base
    dtype, is_swapped = merge_dtype or tensor.dtype, is_base_transposed != is_transposed
    if isinstance(change, Added):
        is_fit = tuple(tensor.shape) == tuple(change.vector.shape)
        return (plus(tensor, change.vector, change.scaling, dtype), is_base_transposed) if is_fit else None
    if isinstance(change, Rows):
        tensor = transposed(tensor) if is_swapped else tensor
        if len(tensor.shape) != 2 or tensor.shape[1] != change.values.shape[1] or tensor.shape[0] <= change.last:
            return None
        tensor = with_rows(tensor, change, dtype)
        return (transposed(tensor) if is_swapped else tensor), is_base_transposed
    change = change.transposed if is_swapped else change
    if not tensor.shape or (tensor.shape[0], num_columns(tensor)) != change.shape:
        return None
    return merged(tensor, change, dtype), is_base_transposed


def _check_once(adapter: Adapter, names: Mapping[str, tuple[str, bool]]) -> None:
    """Raise CheckpointError if two of an adapter's names stand for one tensor of the model."""
    kinds = (adapter.whole, adapter.rows, adapter.factors, adapter.added)
    for kind in kinds:
        seen: dict[str, str] = {}
        for name in kind:
            other = seen.setdefault(names[name][0], name)
            if other != name:
                raise CheckpointError(
                    f"{adapter.source} holds one tensor under two names, {other} and {name}: remove one of them"
                )


def _check_biases(tensors: Mapping[str, Oriented], adapter: Adapter, names: Mapping[str, tuple[str, bool]]) -> None:
    """Raise CheckpointError if biases were trained, but are not in the file. NOTE: peft 0.17 loses `lora_only`."""
    if adapter.trains_bias is None:
        return
    stated = {names[name][0] for name in adapter.whole}
    biases = [f"{names[name][0].removesuffix('.weight')}.bias" for name in adapter.factors]
    lost = sorted(name for name in biases if name in tensors and name not in stated)
    if lost:
        raise CheckpointError(
            f"{adapter.source}: adapter_config.json states bias {adapter.trains_bias!r}, but the trained biases of "
            f"{preview(lost, 4)} are not in the file (peft 0.17 does not save them): save them again with a newer "
            "peft, or set bias to 'none' to take the base's"
        )


def _may_replace(base: Oriented | None, tensor: StoredTensor, is_transposed: bool, name: str) -> bool:
    """Return whether a whole tensor has the base's shape. A vocabulary may have grown, and new tensors may have any."""
    if base is None or name.endswith(VOCABULARY):
        return True
    shape = base[0].shape if base[1] == is_transposed else base[0].shape[::-1]
    return tuple(shape) == tuple(tensor.shape)
