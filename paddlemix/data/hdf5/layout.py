"""The layout of the HDF5 files (Model Zoo 2.3, create_hdf5): names, rows, and a row's way there and back.

A file has `data` int32 [n, 4, L], `img_path` bytes [n, 1] and the attribute `n_examples`. The four rows are input ids,
loss mask, labels (the next tokens) and the inverted attention mask (1 = hidden). An image is num_patches pad ids from
one position on, the same in all rows. A row without an image has them too, hidden, and the path "None".
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ...constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from ...packages import missing

DATA, PATHS, COUNT = "data", "img_path", "n_examples"
PARAMS = "data_params.json"
FORMAT = "llava_hdf5"  # name of the rows' format in reports
IDS, LOSS, LABELS, HIDDEN = range(4)
NO_IMAGE = "None"
FILE_ROWS = 10_000  # files_per_record of the Model Zoo
NAME = "examples"  # output_name


class LayoutError(ValueError):
    """A row that the layout cannot hold, or files that do not have it."""


@dataclass(frozen=True)
class Layout:
    """What is the same in all rows: positions L, image tokens, where they start, and the id that fills."""

    max_length: int
    num_patches: int
    start: int
    pad_id: int

    @property
    def patches(self) -> slice:
        return slice(self.start, self.start + self.num_patches)

    def row_of(self, token_ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return int32 [4, L] of a sample. Raises LayoutError for one that the layout cannot hold."""
        places = np.flatnonzero(token_ids == IMAGE_TOKEN_ID)
        if len(places):
            expected = np.arange(self.start, self.start + self.num_patches)
            if not np.array_equal(places, expected):
                raise LayoutError(
                    f"its image tokens are at {places[0]} to {places[-1]}, {len(places)} in all: the HDF5 layout has "
                    f"one image of {self.num_patches} tokens from {self.start} on"
                )
            is_hidden = np.zeros(len(token_ids), dtype=bool)
        else:
            if len(token_ids) <= self.start:
                raise LayoutError(f"it has {len(token_ids)} tokens, and images start at {self.start}")
            gap = np.full(self.num_patches, IMAGE_TOKEN_ID)
            token_ids = np.concatenate([token_ids[: self.start], gap, token_ids[self.start :]])
            labels = np.concatenate([labels[: self.start], np.full_like(gap, IGNORE_INDEX), labels[self.start :]])
            is_hidden = np.zeros(len(token_ids), dtype=bool)
            is_hidden[self.patches] = True
        if len(token_ids) - 1 > self.max_length:
            raise LayoutError(f"it has {len(token_ids)} tokens, hidden ones included: max_length is {self.max_length}")
        ids = np.where(token_ids == IMAGE_TOKEN_ID, self.pad_id, token_ids)
        row = np.zeros([4, self.max_length], dtype=np.int32)
        row[[IDS, LABELS]], row[HIDDEN] = self.pad_id, 1
        count = len(ids) - 1
        row[IDS, :count], row[LABELS, :count] = ids[:-1], ids[1:]
        row[LOSS, :count], row[HIDDEN, :count] = labels[1:] != IGNORE_INDEX, is_hidden[:-1]
        return row

    def tokens_of(self, row: np.ndarray, has_image: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids and labels, int64 [T], of int [4, L]. Raises LayoutError for a row that is none."""
        row = row.astype(np.int64)
        if not np.isin(row[[LOSS, HIDDEN]], (0, 1)).all() or row[[IDS, LABELS]].min() < 0:
            raise LayoutError("its masks are not 0 and 1, or an id is below 0")
        seen = np.flatnonzero(row[HIDDEN] == 0)
        if not len(seen):
            raise LayoutError("all of its positions are hidden")
        end = int(seen[-1]) + 1
        ids, is_seen, is_trained = row[IDS, :end].copy(), row[HIDDEN, :end] == 0, np.zeros(end, dtype=bool)
        is_trained[1:] = row[LOSS, : end - 1] == 1
        if not np.array_equal(row[LABELS, : end - 1][is_trained[1:]], ids[1:][is_trained[1:]]):
            raise LayoutError("its labels are not the next tokens")
        if has_image:
            if not is_seen[self.patches].all() or end < self.start + self.num_patches:
                raise LayoutError(f"its image tokens, {self.num_patches} from {self.start} on, are hidden")
            if (ids[self.patches] != ids[self.start]).any():
                raise LayoutError(
                    f"its image tokens, {self.num_patches} from {self.start} on, are not one repeated token: "
                    "num_patches or image_patch_start_idx is not that of these files"
                )
            ids[self.patches] = IMAGE_TOKEN_ID
        if row[LOSS, end - 1] == 1:  # the last token is only a label
            ids, is_seen = np.append(ids, row[LABELS, end - 1]), np.append(is_seen, True)
            is_trained = np.append(is_trained, True)
        ids, is_trained = ids[is_seen], is_trained[is_seen]
        return ids, np.where(is_trained, ids, IGNORE_INDEX)


def load_h5py() -> ModuleType:
    """Return h5py. Raises ValueError if it is not installed."""
    try:
        import h5py
    except ImportError:
        raise missing("HDF5 files need h5py", "hdf5") from None
    return h5py
