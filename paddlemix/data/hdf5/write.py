"""Write encoded rows to HDF5 files: `paddlemix prepare cache --format hdf5`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from ...conversation.tokenizer import Tokenizer
from ...image.anyres import num_image_tokens
from ...image.spec import ImageSpec
from ...output import OutputError, replacing, write_json
from ...terminal.sizes import plural
from ..bad_rows import BadRowPolicy
from ..measure import Measure
from ..row import Row
from ..row_note import NOTES_FILE, RowNote, count_kinds, write_notes
from ..workers import map_in_processes
from .layout import COUNT, DATA, FILE_ROWS, HIDDEN, LOSS, NAME, NO_IMAGE, PARAMS, PATHS, Layout, LayoutError, load_h5py

CHUNK = 256  # rows that a process gets at once
Found = tuple[np.ndarray, str] | tuple[str, str]  # a row and its image's path, or why it is left out


@dataclass
class Totals:
    """What data_params.json states, added up while rows are written."""

    num_rows: int = 0
    non_pad_tokens: int = 0
    loss_tokens: int = 0
    raw_chars: int = 0
    raw_bytes: int = 0
    chars: int = 0
    text_bytes: int = 0
    notes: dict[tuple, RowNote] = field(default_factory=dict)


@dataclass(frozen=True)
class HdfEncoder:
    """Encodes rows to the layout; a row that it cannot hold is a kind and a reason."""

    measure: Measure
    layout: Layout

    def chunk(self, rows: Sequence[Row]) -> list[Found]:
        sizes: dict[str, Any] = {}
        return [self.row(row, sizes) for row in rows]

    def row(self, row: Row, sizes: dict[str, Any]) -> Found:
        """Return int32 [4, L] and the image's path, or why the row is left out."""
        facts, tokens = self.measure.tokens(row, sizes)
        if tokens is None:
            return facts.kind, facts.reason
        ids = np.array(tokens.ids, dtype=np.int64)
        try:
            values = self.layout.row_of(ids, np.where(tokens.is_trained, ids, IGNORE_INDEX))
        except LayoutError as error:
            return "wrong_row", str(error)
        return values, str(row.conversation.images[0]) if tokens.image_tokens else NO_IMAGE


def find_layout(rows: Sequence[Row], measure: Measure, spec: ImageSpec, tokenizer: Tokenizer) -> Layout:
    """Return the layout in which most rows fit: images start where the first one does.

    Raises LayoutError for a model whose images have different numbers of tokens.
    """
    if spec.mode == "anyres":
        raise LayoutError(
            "the HDF5 layout has the same number of tokens for every image, and this model's images (anyres) have "
            "not: use --format arrow"
        )
    sizes: dict[str, Any] = {}
    first = (measure.tokens(row, sizes)[1] for row in rows if row.conversation.images)
    tokens = next((found for found in first if found is not None and found.image_tokens), None)
    start = tokens.ids.index(IMAGE_TOKEN_ID) if tokens else 0
    num_patches = num_image_tokens((spec.side, spec.side), spec) if tokens else 0
    return Layout(measure.max_length, num_patches, start, tokenizer.pad_id)


def write_hdf5(
    folder: Path,
    rows: Sequence[Row],
    encoder: HdfEncoder,
    tokenizer: Tokenizer,
    policy: BadRowPolicy,
    *,
    num_workers: int = 1,
    split: str = "train",
    left_out: Sequence[RowNote] = (),
    file_rows: int = FILE_ROWS,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Write rows to NAME-0.h5, NAME-1.h5, ... and data_params.json last; return its values.

    Rows that are skipped, or that the layout cannot hold, are counted and listed. left_out: rows that are wrong in
    their files. A stopped run is repeated from its
    start. Raises TooManyBadRowsError, and OutputError for a folder with anything else.
    """
    h5py = load_h5py()
    _claim(folder)
    totals, group, num_files = Totals(), [], 0
    with closing(_encoded(rows, encoder, num_workers)) as encoded:
        for done, (row, found) in enumerate(zip(rows, encoded, strict=True), start=1):
            if isinstance(found[0], str):
                note = RowNote.of(row, split, *found)
                totals.notes[note.key] = note
                _check(totals, left_out, policy, len(rows) + len(left_out))
                continue
            _count(totals, row, found[0], tokenizer)
            group.append(found)
            if len(group) == file_rows:
                _write_file(h5py, folder / f"{NAME}-{num_files}.h5", group)
                group, num_files = [], num_files + 1
            progress("encoding", done, len(rows))
    if group or not num_files:
        _write_file(h5py, folder / f"{NAME}-{num_files}.h5", group)
    if not totals.num_rows:
        raise LayoutError(f"{folder}: none of {plural(len(rows), 'row')} can be written")
    write_notes(folder / NOTES_FILE, [*left_out, *totals.notes.values()])
    params = _params(totals, encoder.layout, tokenizer, len(rows), file_rows)
    write_json(folder / PARAMS, params)
    return params


def _claim(folder: Path) -> None:
    """Make the folder, or remove what an earlier run wrote into it. Raises OutputError for other content."""
    folder.mkdir(parents=True, exist_ok=True)
    own = re.compile(rf"{NAME}-\d+\.h5|{re.escape(PARAMS)}|{re.escape(NOTES_FILE)}|\..*\.tmp")
    others = [path.name for path in folder.iterdir() if not own.fullmatch(path.name)]
    if others:
        raise OutputError(
            f"{folder} has other content than HDF5 files of this command ({others[0]}): name a new folder"
        )
    for path in (folder / PARAMS, folder / NOTES_FILE, *folder.glob(f"{NAME}-*.h5")):
        path.unlink(missing_ok=True)


def _encoded(rows: Sequence[Row], encoder: HdfEncoder, num_workers: int) -> Iterator[Found]:
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    count = min(num_workers, len(chunks))
    if count <= 1:
        found = map(encoder.chunk, chunks)
    else:
        found = map_in_processes(encoder.chunk, chunks, num_processes=count, method="spawn")
    for part in found:
        yield from part


def _check(totals: Totals, left_out: Sequence[RowNote], policy: BadRowPolicy, num_rows: int) -> None:
    notes = list(totals.notes.values())
    if not policy.is_content_skipped:
        raise ValueError(f"{notes[-1].where}: {notes[-1].reason} (on_bad_sample is raise)")
    policy.check([*left_out, *notes], num_rows, notes)


def _count(totals: Totals, row: Row, values: np.ndarray, tokenizer: Tokenizer) -> None:
    texts = "".join(piece for message in row.conversation.messages for piece in message.pieces)
    decoded = tokenizer.decode([int(one) for one in values[0][values[HIDDEN] == 0]], skip_special=True)
    totals.num_rows += 1
    totals.non_pad_tokens += int((values[HIDDEN] == 0).sum())
    totals.loss_tokens += int(values[LOSS].sum())
    totals.raw_chars += len(texts)
    totals.raw_bytes += len(texts.encode())
    totals.chars += len(decoded)
    totals.text_bytes += len(decoded.encode())


def _write_file(h5py, path: Path, group: list[tuple[np.ndarray, str]]) -> None:
    """Write rows to one file, as the Model Zoo does: a row a chunk, compressed."""
    images = [name.encode() for _, name in group]
    width = max(map(len, images), default=len(NO_IMAGE))
    shape = (len(group), *(group[0][0].shape if group else (4, 1)))
    with replacing(path) as file, h5py.File(file, "w") as target:
        target.attrs[COUNT] = len(group)
        chunks = {"chunks": (1, *shape[1:]), "compression": "gzip"} if group else {}
        data = target.create_dataset(DATA, shape, "i4", **chunks)
        for number, (values, _) in enumerate(group):
            data[number] = values
        target.create_dataset(PATHS, data=np.array(images, dtype=f"S{width}").reshape(-1, 1))


def _params(totals: Totals, layout: Layout, tokenizer: Tokenizer, num_rows: int, file_rows: int) -> dict[str, Any]:
    return {
        "processing": {
            "max_seq_length": layout.max_length,
            "files_per_record": file_rows,
            "num_patches": layout.num_patches,
            "multi_modal": True,
            "output_name": NAME,
        },
        "h5_dataset_stats": {
            "num_sequences": totals.num_rows,
            "num_tokens": totals.num_rows * layout.max_length,
            "detokenized_bytes": totals.text_bytes,
            "detokenized_chars": totals.chars,
            "non_pad_tokens": totals.non_pad_tokens,
            "loss_valid_tokens": totals.loss_tokens,
        },
        "post-process": {
            "discarded_files": num_rows - totals.num_rows,
            "processed_files": num_rows,
            "successful_files": totals.num_rows,
            "n_examples": totals.num_rows,
            "raw_chars_count": totals.raw_chars,
            "raw_bytes_count": totals.raw_bytes,
            "eos_id": tokenizer.eos_id,
            "pad_id": layout.pad_id,
            "vocab_size": tokenizer.vocab_size,
            "skipped": count_kinds(totals.notes.values()),
        },
        "image_patch_start_idx": layout.start,
    }
