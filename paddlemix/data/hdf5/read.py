"""Read HDF5 files with rows that were encoded before: `"name": "llava_hdf5"` of a training configuration."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...constants import IGNORE_INDEX
from ...conversation.messages import Conversation
from ...image.anyres import num_image_tokens
from ...image.errors import ImageError, MissingImageError
from ...image.load import load_image, read_image_size
from ...image.preprocess import preprocess
from ...image.spec import ImageSpec
from ...json_object import read_object
from ..encode import find_image
from ..encoding import Encoding
from ..measure import MISSING, UNREADABLE, RowFacts
from ..row import Row
from ..row_note import TOO_LONG
from ..row_sequence import StoredRows
from ..sample import Sample
from .layout import COUNT, DATA, FORMAT, NO_IMAGE, PARAMS, PATHS, Layout, LayoutError, load_h5py

MAX_POSITIONS = 1 << 20
MAX_CHUNK = 64 << 20  # bytes of a chunk: a file could state one that fills the memory


@dataclass(frozen=True)
class HdfFile:
    """One file: its path, and the path of each row's image. Another process reads them again."""

    path: str
    images: tuple[str, ...]

    def __reduce__(self):
        return _file, (self.path,)


@dataclass(frozen=True)
class HdfRows:
    """The rows of files with one layout, and what makes them samples. Can be pickled."""

    files: tuple[HdfFile, ...]
    layout: Layout
    spec: ImageSpec
    vocab_size: int
    run_length: int
    image_folder: str | None

    def row(self, number: int) -> Row:
        file, index = self.place(number)
        image = file.images[index]
        folders = (self.image_folder, os.path.dirname(os.path.abspath(file.path)), os.getcwd())
        images = () if image == NO_IMAGE else (image,)
        own = tuple(dict.fromkeys(filter(None, folders)))
        return Row(Conversation((), images), file.path, index + 1, None, own, None, FORMAT, HdfRow(self, number))

    def place(self, number: int) -> tuple[HdfFile, int]:
        """Return the file of a row, and its index there."""
        for file in self.files:
            if number < len(file.images):
                return file, number
            number -= len(file.images)
        raise IndexError(number)

    def tokens(self, number: int) -> tuple[np.ndarray, np.ndarray, str | None]:
        """Return token ids and labels, int64 [T], and the image of a row. Raises LayoutError."""
        file, index = self.place(number)
        image = None if file.images[index] == NO_IMAGE else file.images[index]
        try:
            values = _dataset(file.path, os.getpid())[index]
            ids, labels = self.layout.tokens_of(values, image is not None)
        except (OSError, LayoutError) as error:
            raise LayoutError(f"{file.path}, row {index + 1}: {error}") from None
        if ids.max() >= self.vocab_size:
            raise LayoutError(
                f"{file.path}, row {index + 1}: token id {ids.max()} is not in the model's vocabulary of "
                f"{self.vocab_size}: the files are of another tokenizer"
            )
        return ids, labels, image


@dataclass(frozen=True)
class HdfRow:
    """A row of HDF5 files, see `encoded.Encoded`."""

    rows: HdfRows
    number: int

    def failure(self) -> tuple[str, str] | None:
        ids, labels, _ = self.rows.tokens(self.number)
        return self._failure(ids, labels)

    def sample(self, folders: Sequence[str]) -> tuple[Sample, int]:
        ids, labels, source = self.rows.tokens(self.number)
        if source is None:
            return Sample(ids, labels), 0
        image = load_image(find_image(source, folders))
        self._check_size(image.size, source)
        return Sample(ids, labels, (preprocess(image, self.rows.spec),)), 0

    def facts(self, folders: Sequence[str], sizes: dict[str, Any], *, is_thorough: bool) -> RowFacts:
        ids, labels, source = self.rows.tokens(self.number)
        found, error = (), None
        try:
            if source is not None:
                located = find_image(source, folders)
                size = load_image(located).size if is_thorough else read_image_size(located)
                self._check_size(size, source)
                found = (size,)
        except ImageError as failure:
            error = failure
        num_missing, num_bad = isinstance(error, MissingImageError), error is not None
        rest = {"sizes": found, "num_missing": int(num_missing), "num_unreadable": int(num_bad and not num_missing)}
        rest["digest"] = ids.tobytes() + labels.tobytes() + str(source).encode("utf-8", "backslashreplace")
        failure = (MISSING if num_missing else UNREADABLE, str(error)) if num_bad else self._failure(ids, labels)
        if failure:
            return RowFacts(None if num_bad else len(ids), 0, 0, 0, kind=failure[0], reason=failure[1], **rest)
        return RowFacts(len(ids), len(ids), int((labels != IGNORE_INDEX).sum()), 0, kind=None, reason="", **rest)

    def _failure(self, ids: np.ndarray, labels: np.ndarray) -> tuple[str, str] | None:
        limit = self.rows.run_length
        if len(ids) > limit:
            return TOO_LONG, f"the row has {len(ids)} tokens but max_length is {limit}: raise max_length"
        if (labels == IGNORE_INDEX).all():
            return "nothing_trained", "no token of the row is trained"
        return None

    def _check_size(self, size: tuple[int, int], source: str) -> None:
        count = num_image_tokens(size, self.rows.spec)
        if count != self.rows.layout.num_patches:
            raise LayoutError(
                f"image {source!r} has {count} tokens for this model, and {self.rows.layout.num_patches} in the HDF5 "
                "files: they were made for another model"
            )


def open_hdf5(
    paths: Sequence[str], split: str, *, encoding: Encoding | None, image_folder: str | None = None
) -> StoredRows:
    """Return the rows of HDF5 files: a folder with data_params.json, or its files.

    encoding: of the run; its spec and vocabulary are needed to read a row. Raises LayoutError for other files.
    """
    files, params_path = _find(paths)
    params = read_object(params_path, LayoutError)
    if encoding is None:
        raise LayoutError(f"{params_path.parent}: HDF5 files are read for a model, whose tokenizer and images count")
    opened = [_opened(file) for file in files]
    positions = {length for _, length in opened}
    if len(positions) > 1:
        raise LayoutError(f"{params_path.parent}: its files have rows of {sorted(positions)} positions, expected one")
    names = [file for file, _ in opened]
    has_image = np.array([image != NO_IMAGE for file in names for image in file.images], dtype=np.int64)
    layout = Layout(
        positions.pop(),
        _number(params, "num_patches", params_path, bool(has_image.any())),
        _number(params, "image_patch_start_idx", params_path, bool(has_image.any())),
        _number(params, "pad_id", params_path, False),
    )
    _check_eos(params, params_path, encoding)
    rows = HdfRows(
        tuple(names), layout, encoding.spec, encoding.tokenizer.vocab_size, encoding.max_length, image_folder
    )
    return StoredRows(
        read=rows.row,
        numbers=np.arange(len(has_image)),
        all_lengths=None,
        num_images=has_image,
        files=np.repeat(np.arange(len(names)), [len(file.images) for file in names]),
        positions=np.arange(len(has_image)),
        data_files=tuple(file.path for file in names),
    )


def _find(paths: Sequence[str]) -> tuple[list[str], Path]:
    """Return the files in the order of their numbers, and data_params.json beside them."""
    files: list[str] = []
    for path in map(Path, paths):
        own = sorted(path.glob("*.h5"), key=_by_number) if path.is_dir() else [path]
        files += map(str, own)
    folder = Path(paths[0]) if Path(paths[0]).is_dir() else Path(paths[0]).parent
    if not files:
        raise LayoutError(f"{folder} has no files *.h5")
    if not (folder / PARAMS).is_file():
        raise LayoutError(f"{folder} has no {PARAMS}: it is not finished, or its files are not in the layout")
    return files, folder / PARAMS


def _by_number(path: Path) -> tuple[str, int, str]:
    stem, number = re.fullmatch(r"(.*?)(\d*)", path.stem).groups()
    return stem, int(number or 0), path.name


def _opened(path: str) -> tuple[HdfFile, int]:
    """Return a file and the positions of its rows. Raises LayoutError for a file with another layout."""
    try:
        with load_h5py().File(path, "r") as file:
            data, images = (_own_dataset(file, name, path) for name in (DATA, PATHS))
            count = file.attrs.get(COUNT)
            if data.ndim != 3 or data.shape[1] != 4 or data.dtype.kind not in "iu" or data.shape[2] > MAX_POSITIONS:
                raise LayoutError(f"{path}: data is {data.dtype} {list(data.shape)}: expected int32 [n, 4, L]")
            if data.chunks and np.prod(data.chunks, dtype=float) * data.dtype.itemsize > MAX_CHUNK:
                raise LayoutError(f"{path}: data has chunks {data.chunks}, more than {MAX_CHUNK >> 20} MB")
            if images.shape[:1] != data.shape[:1] or images.size != len(data) or count != len(data):
                raise LayoutError(f"{path}: {len(data)} rows, {images.size} paths of images, {COUNT} {count}")
            names = [_text(name, path) for name in images[()].reshape(-1)]
            return HdfFile(path, tuple(names)), int(data.shape[2])
    except (OSError, KeyError, RuntimeError) as error:
        raise LayoutError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())[:300]}") from None


@functools.lru_cache(maxsize=1024)
def _file(path: str) -> HdfFile:
    """Return a file in another process, once for all of its rows."""
    return _opened(path)[0]


def _own_dataset(file, name: str, path: str):
    """Return a dataset whose values are in the file itself: HDF5 can name any other file of the machine."""
    h5py = load_h5py()
    link = file.get(name, getlink=True)
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise LayoutError(f"{path}: expected a dataset {name!r} with its values in the file")
    return found


def _text(value: Any, path: str) -> str:
    if not isinstance(value, bytes):
        raise LayoutError(f"{path}: {PATHS} is not bytes, found {type(value).__name__}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path}: a path of an image is not UTF-8: {error}") from None


@functools.lru_cache(maxsize=64)
def _dataset(path: str, process: int):
    """Return the open rows of a file, for each process its own: HDF5 files do not survive a fork."""
    return load_h5py().File(path, "r")[DATA]


def _number(params: dict[str, Any], key: str, path: Path, is_needed: bool) -> int:
    """Return a whole number of data_params.json, at the top or in one of its objects."""
    groups = [params, *(value for value in params.values() if isinstance(value, dict))]
    value = next((group[key] for group in groups if group.get(key) is not None), None)
    if value is None and not is_needed:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_POSITIONS:
        raise LayoutError(f"{path}: {key} is {value!r}: expected a whole number from 0 to {MAX_POSITIONS}")
    return value


def _check_eos(params: dict[str, Any], path: Path, encoding: Encoding) -> None:
    """Raise LayoutError for files of another tokenizer, as far as its end mark shows."""
    stated = params.get("post-process")
    eos_id = stated.get("eos_id") if isinstance(stated, dict) else None
    if eos_id is not None and eos_id != encoding.tokenizer.eos_id:
        raise LayoutError(f"{path}: eos_id is {eos_id!r}, and the model's is {encoding.tokenizer.eos_id}")
