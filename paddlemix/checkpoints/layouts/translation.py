"""Stored tensors under our names. Each is checked: its name, its dtype and the order of its axes.

Loading raises the problems, inspecting reports them. No values are read, except for a head that repeats the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...models.config import LlavaConfig
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...tensor_files.transforms import is_same, transposed
from ..adapters import Oriented
from .components import EMBEDDING, HEAD
from .foreign_quantization import quantized_names, quantized_tensors, wrong_dtype, wrong_dtypes
from .fused_weights import as_ours
from .rules import KeyTable
from .shapes import Shapes, parameter_shapes


@dataclass(frozen=True)
class Naming:
    """How a model's tensors are stored.

    table, canonical, is_dropped: see `Layout`. expected: our name -> shape. is_tied: the head has the values of the
    embeddings.
    """

    table: KeyTable | None
    canonical: Callable[[str], str]
    is_dropped: Callable[[str], bool]
    expected: Shapes
    is_tied: bool = False


@dataclass
class Translation:
    """tensors: our name -> (tensor, is_transposed); stored_as: our name -> theirs.

    dropped, unknown: stored names. problems: one sentence each.
    """

    tensors: dict[str, Oriented] = field(default_factory=dict)
    stored_as: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def check(self, source) -> None:
        """Raise CheckpointError with all problems. source: the folder, for the message."""
        if self.problems:
            raise CheckpointError(f"{source}: {'; '.join(self.problems)}")
        if self.unknown:
            names = preview(sorted(self.unknown))
            raise CheckpointError(
                f"{source} holds {len(self.unknown)} unrecognized tensor{'s' * (len(self.unknown) > 1)}: {names}"
            )

    def checked(self, source) -> dict[str, StoredTensor]:
        """Return our name -> tensor with our axes. Raises CheckpointError for problems, see `check`."""
        self.check(source)
        return self.in_our_orientation()

    def in_our_orientation(self) -> dict[str, StoredTensor]:
        """Return our name -> tensor with our axes."""
        return {
            name: transposed(tensor) if is_swapped else tensor for name, (tensor, is_swapped) in self.tensors.items()
        }


def naming_of(layout, config: LlavaConfig) -> Naming:
    """Return how a layout stores a model."""
    return Naming(
        layout.table(config),
        layout.canonical,
        lambda name: layout.is_dropped(name, config),
        parameter_shapes(config),
        config.language.tie_word_embeddings,
    )


def translate(naming: Naming, stored: Mapping[str, StoredTensor]) -> Translation:
    """Return a model's tensors under our names, with the problems that they have."""
    found, heads, misfits = Translation(), {}, []
    for name, tensor in stored.items():
        canonical = naming.canonical(name)
        try:
            ours = as_ours(naming.table, canonical, tensor)
        except CheckpointError as error:  # a fused matrix of another height
            misfits.append(str(error))
            continue
        if naming.is_tied and ours and HEAD in ours:
            heads[name] = ours[HEAD]
        elif naming.is_dropped(canonical):
            found.dropped.append(name)
        elif ours is None:
            found.unknown.append(name)
        else:
            _add(found, name, ours)
    for name, (tensor, is_transposed) in heads.items():
        _add_tied_head(found, name, (tensor, not is_transposed))
    found.problems += [preview(misfits, 3)] if misfits else []
    marked = set(quantized_names(found.unknown))
    if marked:
        found.problems.append(quantized_tensors(sorted(marked)))
        found.unknown = [name for name in found.unknown if name not in marked]
    else:  # the line above says enough about integers with scales
        _check_dtypes(found, stored)
    _transpose_swapped(found, naming.expected)
    return found


def _add(found: Translation, name: str, ours: Mapping[str, Oriented]) -> None:
    twice = sorted(name for name in ours if name in found.tensors)
    if twice:
        found.problems.append(f"it holds two tensors for {preview(twice)}, one of them under the name {name}")
        return
    found.tensors |= ours
    found.stored_as |= dict.fromkeys(ours, name)


def _add_tied_head(found: Translation, name: str, head: Oriented) -> None:
    """Use the transposed head of a tied model as the embeddings, or drop it as a copy of them.

    NOTE: transformers 4 uses the embeddings whatever the values of the head; 5 unties the two if they differ.
    """
    if EMBEDDING not in found.tensors:
        _add(found, name, {EMBEDDING: head})
        return
    one, other = (
        transposed(tensor) if is_swapped else tensor for tensor, is_swapped in (head, found.tensors[EMBEDDING])
    )
    if is_same(one, other):
        found.dropped.append(name)
        return
    found.problems.append(
        f"{name} has other values than the embeddings, though config.json ties the two (tie_word_embeddings true): set "
        "it to false there if the head counts, or remove the tensor"
    )


def _check_dtypes(found: Translation, stored: Mapping[str, StoredTensor]) -> None:
    names = dict.fromkeys(found.stored_as.values())
    odd = [problem for name in names if (problem := wrong_dtype(name, stored[name]))]
    found.problems += [wrong_dtypes(odd)] if odd else []


def _transpose_swapped(found: Translation, expected: Shapes) -> None:
    """Report matrices whose axes are swapped, and swap them, so that the problem is reported once."""
    swapped = []
    for name, (tensor, is_transposed) in found.tensors.items():
        shape = tuple(tensor.shape[::-1] if is_transposed else tensor.shape)
        wanted = expected.get(name, shape)
        if len(shape) == 2 and shape != wanted and shape[::-1] == wanted:
            swapped.append(f"{found.stored_as[name]} {list(tensor.shape)}, expected {list(tensor.shape[::-1])}")
            found.tensors[name] = (tensor, not is_transposed)
    if swapped:
        found.problems.append(
            f"axes swapped in {len(swapped)} of the matrices: {preview(swapped, 3)}. torch holds linear layers as "
            "[out, in], Paddle as [in, out]: transpose them and save again"
        )
