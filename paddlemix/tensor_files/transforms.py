"""Stored tensors derived from others. Nothing is read or computed before the values of the result are read.

The work is done by regions, so that writing a result (`blocks`) needs the memory of its source, which usually is
mapped, and of one region of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .copying import copy_into, ranges, widened
from .stored import CheckpointError, StoredTensor, storage_dtype

FLOATS = ("float64", "float32", "float16", "bfloat16")
BLOCK_BYTES = 16 << 20
ALL = slice(None)
Region = Callable[[slice, slice], np.ndarray]


@dataclass(frozen=True)
class Derived(StoredTensor):
    """A tensor made from others. step: "transposed", "cast" and the like, for reports. sources: the other tensors.

    open: opens the sources and returns a function for a region (rows, columns) of the result, None if only the whole
    can be computed. Tensors with one axis have no columns. Regions do not cut axes after the second.
    """

    step: str = ""
    sources: tuple[StoredTensor, ...] = ()
    open: Callable[[], Region] | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """See StoredTensor."""
        region = open_regions(self)
        for rows in row_ranges(self):
            yield contiguous(region(rows, ALL), self.dtype)


def open_regions(tensor: StoredTensor) -> Region:
    """Return a function for regions of a tensor. The tensor stays open as long as the function exists."""
    if isinstance(tensor, Derived) and tensor.open is not None:
        return tensor.open()
    values = tensor.values
    return lambda rows, columns: values[rows, columns] if values.ndim > 1 else values[rows] if values.ndim else values


def row_ranges(tensor: StoredTensor) -> Iterator[slice]:
    """Return ranges of rows of about BLOCK_BYTES each, which together are the whole tensor."""
    num_all = tensor.shape[0] if tensor.shape else 1
    return ranges(num_all, max(BLOCK_BYTES * num_all // max(tensor.num_bytes, 1), 1))


def is_same(first: StoredTensor, second: StoredTensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits."""
    if (first.dtype, tuple(first.shape)) != (second.dtype, tuple(second.shape)):
        return False
    one, other = open_regions(first), open_regions(second)
    bits = np.dtype(f"u{storage_dtype(first.dtype).itemsize}")
    return all(np.array_equal(one(rows, ALL).view(bits), other(rows, ALL).view(bits)) for rows in row_ranges(first))


def ancestry(tensor: StoredTensor) -> Iterator[StoredTensor]:
    """Yield a tensor and all tensors that it is made from."""
    yield tensor
    for source in tensor.sources if isinstance(tensor, Derived) else ():
        yield from ancestry(source)


def transposed(tensor: StoredTensor) -> StoredTensor:
    """Return a tensor with reversed axes, whose values are a view. Transposed twice, it is the tensor itself."""
    if is_transposed(tensor):
        return tensor.sources[0]

    def open_source() -> Region:
        source = open_regions(tensor)
        return lambda rows, columns: source(columns, rows).T

    opener = open_source if len(tensor.shape) == 2 else None
    return Derived(tensor.dtype, tensor.shape[::-1], lambda: tensor.values.T, "transposed", (tensor,), opener)


def is_transposed(tensor: StoredTensor) -> bool:
    """Return whether a tensor is another one transposed."""
    return isinstance(tensor, Derived) and tensor.step == "transposed"


def sliced_rows(tensor: StoredTensor, start: int, stop: int) -> StoredTensor:
    """Return the rows from start to stop, which must exist."""
    if not 0 <= start <= stop <= tensor.shape[0]:
        raise CheckpointError(f"rows {start} to {stop} of a tensor of shape {list(tensor.shape)} do not exist")
    return gathered_rows([tensor], [(0, start, stop)], "cut")


def are_alike(tensor: StoredTensor, start: int) -> bool:
    """Return whether all rows from `start` on are equal."""
    rows = sliced_rows(tensor, start, tensor.shape[0]).values
    return bool((rows == rows[:1]).all())


def gathered_rows(sources: Sequence[StoredTensor], runs: Sequence[tuple[int, int, int]], step: str) -> StoredTensor:
    """Return ranges of rows, each (number of the source, start, stop), one below the other.

    step: see Derived. Raises CheckpointError for sources of different dtypes or widths.
    """
    first = sources[0]
    for source in sources:
        if (source.dtype, tuple(source.shape[1:])) != (first.dtype, tuple(first.shape[1:])):
            raise CheckpointError(
                f"rows of a {source.dtype} tensor of shape {list(source.shape)} cannot be joined to those of a "
                f"{first.dtype} one of shape {list(first.shape)}"
            )
    ends = np.cumsum([stop - start for _, start, stop in runs]).tolist()

    def open_sources() -> Region:
        opened = [open_regions(source) for source in sources]

        def region(rows: slice, columns: slice) -> np.ndarray:
            first_row, last_row, _ = rows.indices(ends[-1])
            parts = []
            for (number, start, stop), end in zip(runs, ends, strict=True):
                shift = stop - end  # from a row of the result to the row of the source
                low, high = max(first_row, end - (stop - start)), min(last_row, end)
                if low < high or len(runs) == 1:  # one run may be empty
                    parts.append(opened[number](slice(low + shift, high + shift), columns))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return region

    shape = (ends[-1], *first.shape[1:])
    return Derived(first.dtype, shape, lambda: open_sources()(ALL, ALL), step, tuple(sources), open_sources)


def padded_rows(tensor: StoredTensor, num_rows: int, fill: str = "zeros") -> StoredTensor:
    """Return a tensor with rows appended up to num_rows: zeros, or ("mean") the mean of the existing rows."""
    assert fill in ("zeros", "mean"), fill
    num_old = tensor.shape[0]
    if num_rows < num_old:
        raise CheckpointError(f"a tensor of shape {list(tensor.shape)} has more than {num_rows} rows already")

    def open_source() -> Region:
        source = open_regions(tensor)
        new = _mean_row(tensor, source) if fill == "mean" else np.zeros(tensor.shape[1:], storage_dtype(tensor.dtype))

        def region(rows: slice, columns: slice) -> np.ndarray:
            first, last, _ = rows.indices(num_rows)
            old = source(slice(min(first, num_old), min(last, num_old)), columns)
            if last <= num_old:
                return old
            result = np.empty((last - first, *old.shape[1:]), old.dtype)
            result[: len(old)] = old
            result[len(old) :] = new[columns] if new.ndim else new
            return result

        return region

    return _derived(tensor.dtype, (num_rows, *tensor.shape[1:]), "padded", tensor, open_source)


def cast(tensor: StoredTensor, dtype: str) -> StoredTensor:
    """Return a tensor rounded to another float dtype, to nearest and ties to even, float64 to bfloat16 through float32.

    Reading raises CheckpointError for a finite value beyond the range of the dtype. Tensors of other types stay.
    """
    if dtype not in FLOATS:
        raise CheckpointError(f"dtype {dtype!r} is not known: expected one of {', '.join(FLOATS)}")
    if dtype == tensor.dtype or tensor.dtype not in FLOATS:
        return tensor
    if is_transposed(tensor):  # so that transposing it again returns its source, cast
        return transposed(cast(tensor.sources[0], dtype))

    def open_source() -> Region:
        source = open_regions(tensor)

        def region(rows: slice, columns: slice) -> np.ndarray:
            values = source(rows, columns)
            result = np.empty(values.shape, storage_dtype(dtype))
            for block in row_blocks(values):
                result[block] = cast_values(values[block], tensor.dtype, dtype)
            return result

        return region

    return _derived(dtype, tensor.shape, "cast", tensor, open_source)


def cast_values(values: np.ndarray, dtype: str, target: str) -> np.ndarray:
    """Return an array rounded to another dtype; bfloat16 is bits in uint16. Raises CheckpointError on overflow."""
    wide = widened(values, dtype)
    with np.errstate(over="ignore"):
        result = to_bfloat16(wide) if target == "bfloat16" else wide.astype(target)
    is_lost = np.isfinite(wide) & ~np.isfinite(widened(result, target))
    if is_lost.any():
        raise CheckpointError(
            f"the value {float(wide[is_lost].flat[0]):g} is too large for {target}: convert to another dtype"
        )
    return result


def contiguous(values: np.ndarray, dtype: str, *, widen: bool = False) -> np.ndarray:
    """Return an array in row-major order. widen: floats of 16 bits as float32."""
    widen = widen and dtype in ("float16", "bfloat16")
    if values.flags.c_contiguous and not widen:
        return np.ascontiguousarray(values)
    result = np.empty(values.shape, np.float32 if widen else values.dtype)
    copy_into(result, values, dtype)
    return result


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of bfloat16 in uint16. A NaN stays one."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(single), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def row_blocks(values: np.ndarray) -> Iterator[slice | tuple]:
    """Return ranges of rows of about BLOCK_BYTES each. An array without axes is one block."""
    if values.ndim == 0:
        return iter([()])
    return ranges(len(values), max(BLOCK_BYTES * len(values) // max(values.nbytes, 1), 1))


def _derived(dtype: str, shape: tuple, step: str, source: StoredTensor, opener: Callable[[], Region]) -> Derived:
    """Return a derived tensor whose values are one region of all rows and columns."""
    return Derived(dtype, tuple(shape), lambda: opener()(ALL, ALL), step, (source,), opener)


def _mean_row(tensor: StoredTensor, region: Region) -> np.ndarray:
    total = np.zeros(tensor.shape[1:], np.float64)
    for rows in row_ranges(tensor):
        total += widened(contiguous(region(rows, ALL), tensor.dtype), tensor.dtype).sum(axis=0, dtype=np.float64)
    mean = total / max(tensor.shape[0], 1)
    return to_bfloat16(mean) if tensor.dtype == "bfloat16" else mean.astype(tensor.dtype)
