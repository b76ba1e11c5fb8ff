"""The manifest of a token cache: what it contains, what its samples depend on, and the files that belong to it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...foreign_json import FLAG, OBJECT, TEXT, KeyRules, Kind, check_keys, check_values, list_of, whole_number
from ...json_object import read_object
from ...output import replacing
from ..row_note import RowNote
from .shards import AGAIN, COMMAND, CacheError

FILE, PLAN = "manifest.json", "plan.json"
INDEX, MIXTURE = "index.arrow", "mixture.arrow"
KIND, VERSION = "token_cache", 1
SHARD_NAME = re.compile(r"shard-\d{5,9}\.arrow")

COUNT = whole_number(0, 1 << 48)
NAME = Kind(lambda value: isinstance(value, str), "a string")  # of a file: not always UTF-8
LINES = list_of(OBJECT, 0, 1 << 30)
HEX = Kind(lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value) is not None, "a hex number")
PLAN_KINDS: dict[str, Kind] = {
    "kind": Kind(lambda value: value == KIND, repr(KIND)),
    "version": Kind(lambda value: value == VERSION, f"{VERSION}, the version that this program reads"),
    "split": TEXT,
    "seed": COUNT,
    "encoding": OBJECT,
    "files": list_of(OBJECT),
    "entries": LINES,
    "num_rows": COUNT,
    "num_in_mixture": COUNT,
    "part_rows": whole_number(1, 1 << 24),
    "has_images": FLAG,
    "shuffle": COUNT.or_null(),
}
MANIFEST_KINDS: dict[str, Kind] = {
    **PLAN_KINDS,
    "shards": list_of(OBJECT),
    "index_digest": HEX,
    "mixture_digest": HEX.or_null(),
    "checksum_before": HEX,
    "checksum_after": HEX,
    "totals": OBJECT,
    "left_out": LINES,
}
FILE_KINDS = {
    "file": NAME,
    "path": NAME,
    "folders": list_of(NAME, 0),
    "bytes": COUNT,
    "mtime_ns": Kind(lambda value: type(value) is int, "a whole number"),
    "sha256": HEX,
}
SHARD_KINDS = {
    "file": Kind(lambda value: isinstance(value, str) and SHARD_NAME.fullmatch(value) is not None, "shard-NNNNN.arrow"),
    "rows": COUNT,
    "bytes": COUNT,
}


@dataclass(frozen=True)
class Plan:
    """What a cache will contain, before anything is encoded. Equal for all processes that make it.

    encoding: see `fingerprint.encoding_facts`. files: facts of the data files, with the folders of their images.
    entries: how much of which files the mixture takes, by seed. num_rows: different rows; num_in_mixture: with
    repetitions. has_images: the shards contain the images' files. shuffle: seed of the order of the shards' rows, None
    for the order of the mixture.
    """

    split: str
    seed: int
    encoding: dict[str, Any]
    files: tuple[dict[str, Any], ...]
    entries: tuple[dict[str, Any], ...]
    num_rows: int
    num_in_mixture: int
    part_rows: int
    has_images: bool
    shuffle: int | None

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps({"kind": KIND, "version": VERSION, **asdict(self)}))

    @cached_property
    def owner(self) -> str:
        """A hash of the plan, which its shards carry, so that none of another cache is taken for one of them.

        The times of the data files are left out: a cache is finished although a file was touched.
        """
        values = self.as_dict()
        values["files"] = [{**file, "mtime_ns": 0} for file in values["files"]]
        return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """A finished cache.

    shards: name, rows and bytes of each. checksum_before, checksum_after: the sum of the rows' checksums when they were
    encoded, and read again from the finished shards. totals: counts for reports. left_out: notes of rows that are wrong
    in their files.
    """

    plan: Plan
    shards: tuple[dict[str, Any], ...]
    index_digest: str
    mixture_digest: str | None
    checksum_before: str
    checksum_after: str
    totals: dict[str, Any]
    left_out: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "plan"}
        return {**self.plan.as_dict(), **own}

    def notes(self, split: str) -> list[RowNote]:
        """Return notes of the rows that are wrong in their files."""
        return [RowNote(**{**note, "split": split}) for note in self.left_out]


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write JSON in ASCII, so that file names of any bytes survive."""
    with replacing(path) as file:
        file.write((json.dumps(values, indent=1) + "\n").encode())


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the values of a plan or of a manifest's plan, None if there is neither. Raises CacheError."""
    for name in (PLAN, FILE):
        if (folder / name).is_file():
            values = read_object(folder / name, CacheError)
            check_values({"kind": None, **values}, PLAN_KINDS, str(folder / name), CacheError)
            return {key: values.get(key) for key in PLAN_KINDS}
    return None


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a finished cache. Raises CacheError for any other folder."""
    path = folder / FILE
    if not folder.is_dir():
        raise CacheError(f"token cache not found: {folder.absolute()} is not a folder")
    if not path.is_file():
        hint = (
            f"is not finished: repeat {COMMAND}, which goes on" if (folder / PLAN).is_file() else "is not a token cache"
        )
        raise CacheError(f"{folder} {hint} (there is no {FILE})")
    values = read_object(path, CacheError)
    what = str(path)
    check_values({"kind": None, **values}, PLAN_KINDS, what, CacheError)
    check_keys(values, KeyRules(used=frozenset(MANIFEST_KINDS)), what, CacheError)
    check_values({**dict.fromkeys(MANIFEST_KINDS, ()), **values}, MANIFEST_KINDS, what, CacheError)
    for number, file in enumerate(values["files"]):
        check_values({**dict.fromkeys(FILE_KINDS), **file}, FILE_KINDS, f"{what}: files, {number}", CacheError)
    for number, shard in enumerate(values["shards"]):
        check_values({**dict.fromkeys(SHARD_KINDS), **shard}, SHARD_KINDS, f"{what}: shards, {number}", CacheError)
    _check_notes(values["left_out"], what)
    num_rows = sum(shard["rows"] for shard in values["shards"])
    if num_rows != values["num_rows"] or values["checksum_before"] != values["checksum_after"]:
        raise CacheError(f"{what}: its shards have {num_rows} rows, expected {values['num_rows']}; {AGAIN}")
    plan = Plan(**{name: _frozen(values[name]) for name in Plan.__dataclass_fields__})
    own = [name for name in Manifest.__dataclass_fields__ if name != "plan"]
    return Manifest(plan, **{name: _frozen(values[name]) for name in own})


def _check_notes(notes: list[dict[str, Any]], what: str) -> None:
    for note in notes:
        try:
            RowNote(**{**note, "split": "train"})
        except TypeError as error:
            raise CacheError(f"{what}: left_out has a note that is none: {error}; {AGAIN}") from None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
