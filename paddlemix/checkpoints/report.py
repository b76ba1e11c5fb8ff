"""The report of a conversion: what was done to each tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import Derived, ancestry, is_transposed, transposed
from ..terminal.sizes import in_bytes, plural


@dataclass(frozen=True)
class Mapped:
    """A written tensor: its place ("folder/name"), our names of the tensors that it was made from, and the steps."""

    theirs: str
    ours: tuple[str, ...]
    steps: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, theirs: str, ours: tuple[str, ...], tensor: StoredTensor) -> Mapped:
        steps = (one.step for one in reversed(list(ancestry(tensor))) if isinstance(one, Derived))
        return cls(theirs, ours, tuple(dict.fromkeys(steps)), tensor.dtype, tuple(tensor.shape))


@dataclass
class Report:
    """The result of a conversion.

    mapped: every tensor that was written. dropped: the source's names that are left out on purpose. removed_rows: the
    rows of the vocabulary that are left out, empty for none. notes: sentences on differences between the result and
    the source. remarks: on how other tools read the result. num_bytes, seconds, files: of the result.
    """

    source: str
    destination: str
    source_layout: str
    layout: str
    mapped: list[Mapped] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    removed_rows: str = ""
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    num_bytes: int = 0
    seconds: float = 0.0

    def text(self, with_names: bool = False) -> str:
        """Return the report as text. with_names: with a line for each tensor."""
        lines = [
            f"{self.source} ({self.source_layout}) -> {self.destination} ({self.layout})",
            f"  written: {plural(len(self.mapped), 'tensor')}, {in_bytes(self.num_bytes)}, "
            f"{plural(len(self.files), 'weight file')}, {self.seconds:.1f} s",
        ]
        steps = Counter(step for one in self.mapped for step in set(one.steps))
        done = [f"{step} {number}" for step, number in sorted(steps.items())]
        lines.append(f"  changed: {', '.join(done) or 'nothing but names'}")
        for one in self.mapped:
            if {"padded", "cut"} & set(one.steps):
                lines.append(f"    {one.theirs} {list(one.shape)}: {', '.join(one.steps)}")
        names = f": {preview(self.dropped, 8)}" if self.dropped else ""
        rows = f"; rows of the vocabulary: {self.removed_rows}" if self.removed_rows else ""
        lines.append(f"  dropped on purpose: {len(self.dropped)}{names}{rows}")
        lines += [f"  {note}" for note in (*self.notes, *self.remarks)]
        if with_names:
            lines += [
                f"  {' + '.join(one.ours)} -> {one.theirs}  {' '.join(one.steps)}".rstrip() for one in self.mapped
            ]
        return "\n".join(lines)


def flat(config: LlavaConfig) -> dict[str, Any]:
    """Return the values of a configuration, those of its parts by "part.name"."""
    found = {}
    for key, value in config.to_dict().items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return found


def trace(ours: Mapping[str, StoredTensor], written: Mapping[str, StoredTensor]) -> list[Mapped]:
    """Return the history of each written tensor. Raises CheckpointError if one of ours is in none of them."""
    # Transposing a transposed tensor returns the tensor that it was made from, so that has the same name.
    names = {id(tensor): name for name, tensor in ours.items()}
    names |= {id(transposed(tensor)): name for name, tensor in ours.items() if is_transposed(tensor)}
    mapped, reached = [], set()
    for theirs, tensor in written.items():
        found = tuple(dict.fromkeys(names[id(one)] for one in ancestry(tensor) if id(one) in names))
        mapped.append(Mapped.of(theirs, found, tensor))
        reached.update(found)
    lost = sorted(set(ours) - reached)
    if lost:
        raise CheckpointError(f"the layout has no place for {plural(len(lost), 'tensor')}: {preview(lost)}")
    return mapped
