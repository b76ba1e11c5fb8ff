"""Read the `dataset` value of a training configuration, in the form of PaddleMIX's JSON files, to rows.

    {"train": [{"name": "chatml_dataset", "data_files": "train.json", "chat_template": "chat_template.json"}, ...],
     "eval": [...]}

A split may also be one entry or one path, and the whole value one path or a list of entries, which is then "train".
More keys of an entry: `image_folder`, and `weight` (a share: 0.5 takes half of the rows, 2 takes each row twice) or
`num_samples` (a count). The format does not depend on the name; it is detected for each row. Two names are of rows that
were encoded before: `token_cache` (data_files: its folder; `order`: "stored" trains in the order of its files) and
`llava_hdf5` (data_files: a folder with data_params.json, or its files).

A relative image path is looked for in `image_folder`, if there is one, then beside the data file, then in the current
directory, the only one that PaddleMIX uses.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign_json import number, whole_number
from ..image.load import describe
from ..terminal.near_paths import did_you_mean
from ..terminal.sizes import plural
from .encode import MAX_PATH
from .encoding import Encoding
from .readers.fields import show
from .readers.files import formats_note, scan_rows
from .row import Row
from .row_note import RowNote
from .row_sequence import Part, StoredRows, joined

SPLITS = ("train", "eval")
NAMES = ("chatml_dataset", "llava_dataset", "messages")
# PaddleMIX reads `splits` and `lazy`, too. With data files named, neither has an effect there, and so neither has here.
CACHE, HDF5 = "token_cache", "llava_hdf5"
KEYS = ("name", "data_files", "chat_template", "splits", "lazy", "image_folder", "weight", "num_samples", "order")
ORDERS = ("mixture", "stored")

MAX_WEIGHT = 10_000
MAX_TAKEN = 10**8  # rows of an entry: their list alone takes a gigabyte
WEIGHT, COUNT = number(0, MAX_WEIGHT, is_open=True), whole_number(1, MAX_TAKEN)


@dataclass(frozen=True)
class Entry:
    """One data set of a mixture, as in the configuration. is_in_order: train a cache's rows as they are stored."""

    data_files: tuple[str, ...]
    chat_template: str | None = None
    image_folder: str | None = None
    weight: float | None = None
    num_samples: int | None = None
    name: str = NAMES[0]
    is_in_order: bool = False


def scan_mixture(
    value: Any,
    split: str,
    *,
    encoding: Encoding | None = None,
    config_folder: str | Path | None = None,
    image_folder: str | None = None,
    seed: int = 0,
) -> tuple[Sequence[Row], list[RowNote]]:
    """Return the good rows of a split, entry by entry, and notes of the bad rows. Both are empty for a missing split.

    encoding: what rows that were encoded before are compared with. config_folder: only for a hint if a path exists
    relative to it. image_folder: for entries without their own. seed: chooses the rows that `weight` and `num_samples`
    take; with the same seed, a larger number takes the same rows and more. `chat_template` files are not looked at
    (`entry_files.find_mistakes` does). Raises ValueError for unknown keys and names, missing files, and entries with
    bad rows only.
    """
    parts, bad = [], []
    for index, entry in enumerate(parse_entries(value, split), start=1):
        owner = f"dataset {split!r}, entry {index}"
        if entry.image_folder is None and image_folder is not None:
            entry = replace(entry, image_folder=image_folder)
        entry_rows, entry_bad = _read_entry(entry, owner, config_folder, split, encoding)
        if not len(entry_rows):
            if not entry_bad:
                raise ValueError(f"{owner}: {', '.join(map(str, entry.data_files))} has no rows")
            first = entry_bad[0]
            raise ValueError(
                f"{owner}: none of its {plural(len(entry_bad), 'row')} can be used; {first.where}: {first.reason}"
                f"{formats_note([first.kind])}"
            )
        bad += entry_bad
        parts.append(take(entry_rows, entry, np.random.default_rng([seed, index]), owner))
    return joined(parts), bad


def _read_entry(
    entry: Entry, owner: str, config_folder: str | Path | None, split: str, encoding: Encoding | None
) -> tuple[Part, list[RowNote]]:
    """Return the good rows of an entry and notes of the bad ones."""
    if entry.name in (CACHE, HDF5):
        return _open_stored(entry, owner, config_folder, split, encoding)
    rows, bad = [], []
    for file in entry.data_files:
        file_rows, file_bad = _read_file(file, entry, owner, config_folder, split)
        rows += file_rows
        bad += file_bad
    return rows, bad


def _open_stored(
    entry: Entry, owner: str, config_folder: str | Path | None, split: str, encoding: Encoding | None
) -> tuple[StoredRows, list[RowNote]]:
    # Only runs that use them load Arrow and HDF5.
    if entry.image_folder is not None:
        check_exists(entry.image_folder, os.path.isdir, "image_folder", owner, config_folder)
    image_folder = None if entry.image_folder is None else os.path.abspath(entry.image_folder)
    if entry.name == HDF5:
        from .hdf5.read import open_hdf5

        for file in entry.data_files:
            check_exists(file, os.path.exists, "data file or folder", owner, config_folder)
        return open_hdf5(entry.data_files, split, encoding=encoding, image_folder=image_folder), []
    from .token_cache.cached_rows import open_cache
    from .token_cache.fingerprint import encoding_facts

    if len(entry.data_files) != 1:
        raise ValueError(f"{owner}: 'data_files' must be the folder of one token cache, found {len(entry.data_files)}")
    (folder,) = entry.data_files
    check_exists(folder, os.path.isdir, "token cache", owner, config_folder)
    facts = None
    if encoding is not None:
        facts = encoding_facts(encoding.tokenizer, encoding.template, encoding.spec, encoding.max_length)
    return open_cache(folder, split, encoding=facts, image_folder=image_folder, is_in_order=entry.is_in_order)


def parse_entries(value: Any, split: str) -> list[Entry]:
    """Return the entries of a split. No file is opened."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    is_by_split = isinstance(value, dict) and "data_files" not in value and "name" not in value
    if is_by_split:
        check_keys(value, SPLITS, "dataset")
        value = value.get(split)
    elif split != "train":
        return []
    if value is None:
        return []
    entries = value if isinstance(value, list) else [value]
    return [parse_entry(entry, f"dataset {split!r}, entry {n}") for n, entry in enumerate(entries, start=1)]


def parse_entry(value: Any, owner: str) -> Entry:
    """Return one entry; a string is its data file. Raises ValueError for invalid values."""
    if isinstance(value, str):
        value = {"data_files": value}
    if not isinstance(value, dict):
        raise ValueError(f"{owner}: expected an object or the path of a data file, found {show(value)}")
    check_keys(value, KEYS, owner)
    name = value.get("name", NAMES[0])
    if name not in (*NAMES, CACHE, HDF5):
        known = f"known are {', '.join(NAMES)} (they read the same), {CACHE} and {HDF5}"
        raise ValueError(f"{owner}: unknown dataset name {name!r}, {known}")
    order = value.get("order", ORDERS[0])
    if order not in ORDERS or (order == "stored" and name != CACHE):
        raise ValueError(
            f"{owner}: 'order' is {show(order)}: expected {' or '.join(ORDERS)}, 'stored' only for {CACHE}"
        )
    files = value.get("data_files")
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file for file in files):
        raise ValueError(f"{owner}: 'data_files' must be a path or a list of paths, found {show(files)}")
    for key in ("chat_template", "image_folder"):
        if not isinstance(value.get(key), (str, type(None))):
            raise ValueError(f"{owner}: {key!r} must be a path, found {show(value[key])}")
    weight, num_samples = _parse_amount(value, owner)
    paths = (tuple(files), value.get("chat_template"), value.get("image_folder"))
    return Entry(*paths, weight, num_samples, name, order == "stored")


def take(rows: Part, entry: Entry, generator: np.random.Generator, owner: str) -> Part:
    """Return as many rows as the entry asks for, in file order. For more than all, all rows are repeated first."""
    if entry.weight is None and entry.num_samples is None:
        return rows if isinstance(rows, StoredRows) else list(rows)
    num_taken = round(len(rows) * entry.weight) if entry.num_samples is None else entry.num_samples
    if num_taken < 1:
        raise ValueError(f"{owner}: weight {entry.weight} of {len(rows)} rows is less than one row")
    if num_taken > MAX_TAKEN:
        raise ValueError(
            f"{owner}: weight {entry.weight} of {len(rows):,} rows is {num_taken:,} rows: expected at most "
            f"{MAX_TAKEN:,}; to use rows more often, raise num_train_epochs"
        )
    num_rounds, num_rest = divmod(num_taken, len(rows))
    rest = sorted(generator.permutation(len(rows))[:num_rest])
    if isinstance(rows, StoredRows):
        return rows.pick(np.concatenate([np.tile(np.arange(len(rows)), num_rounds), rest]).astype(np.int64))
    return list(rows) * num_rounds + [rows[index] for index in rest]


def check_keys(value: dict, known: Iterable[str], owner: str) -> None:
    """Raise ValueError for an unknown key, naming the nearest known one."""
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{owner}: unknown key {key!r}{hint} Known keys: {', '.join(known)}")


def _parse_amount(value: dict, owner: str) -> tuple[float | None, int | None]:
    weight, num_samples = value.get("weight"), value.get("num_samples")
    if weight is not None and num_samples is not None:
        raise ValueError(f"{owner}: has both 'weight' and 'num_samples': expected one of them")
    if weight is not None and not WEIGHT.is_good(weight):
        raise ValueError(f"{owner}: 'weight' must be a number above 0, at most {MAX_WEIGHT:,}, found {show(weight)}")
    if num_samples is not None and not COUNT.is_good(num_samples):
        raise ValueError(
            f"{owner}: 'num_samples' must be a whole number above 0, at most {MAX_TAKEN:,}, found {show(num_samples)}"
        )
    return weight, num_samples


def _read_file(
    file: str, entry: Entry, owner: str, config_folder: str | Path | None, split: str
) -> tuple[list[Row], list[RowNote]]:
    check_exists(file, os.path.isfile, "data file", owner, config_folder)
    folders = [os.path.dirname(os.path.abspath(file)), os.getcwd()]
    if entry.image_folder is not None:
        check_exists(entry.image_folder, os.path.isdir, "image_folder", owner, config_folder)
        folders.insert(0, os.path.abspath(entry.image_folder))
    return scan_rows(file, folders=tuple(dict.fromkeys(folders)), split=split)


def check_exists(
    file: str, is_there, what: str, owner: str, config_folder: str | Path | None, remedy: str = ""
) -> None:
    """Raise ValueError with the absolute path and, if it exists relative to the configuration, that, else remedy."""
    if is_there(file or "."):
        return
    hint = remedy
    if config_folder is not None and is_there(os.path.join(config_folder, file)):
        hint = f"; it exists as {Path(config_folder, file)}: paths are relative to the current directory"
    elif (part := re.fullmatch(r"(.+)#(\d+)", file)) and is_there(part[1]):
        hint = f'; for {part[2]} rows of {part[1]}, as in ms-swift, write "num_samples": {part[2]} into its entry'
    hint = hint or did_you_mean(file)
    raise ValueError(f"{owner}: {what} not found: {_shown(os.path.abspath(file))}{hint}")


def _shown(path: str) -> str:
    return path if path.isprintable() and len(path) <= MAX_PATH else describe(path)
