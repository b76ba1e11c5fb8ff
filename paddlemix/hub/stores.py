"""Hubs that no light library covers: ModelScope, and plain web folders such as Paddle's store.

A model has one folder in the cache. It grows in a hidden folder beside it, which is renamed when it is complete.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json
from ..web.clock import ExchangeClock
from ..web.request import OutOfTimeError, WebError, num_expected_bytes, printable, read_body, request
from .download import AGENT, download
from .limits import HubLimits, Result
from .model_files import MAX_LIST_BYTES, RemoteFile, RemoteFolder

if TYPE_CHECKING:
    from requests import Response

MARKER = ".paddlemix_download.json"
ABSENT = (403, 404, 410)  # 403: the answer of an object store for a missing file if its folder may not be listed
NO_HEAD = (405, 501)


@dataclass(frozen=True)
class Store:
    """A hub and its folder in the cache. open: finds a model by its name and revision, raises WebError."""

    title: str
    cache: Path
    open: Callable[[str, str | None, HubLimits], RemoteFolder]

    @property
    def searched(self) -> list[Path]:
        return [self.cache.parent]

    def target(self, name: str, revision: str | None) -> Path:
        return _folder_of(self.cache, name, revision)

    def find(self, name: str, revision: str | None) -> Path | None:
        """Return the folder of a model if it is complete."""
        return complete_folder(self.cache, name, revision)

    def fetch(
        self, name: str, revision: str | None, folder: RemoteFolder, files: list[RemoteFile], limits: HubLimits
    ) -> Path:
        """Download files and return their folder. Raises WebError, CheckpointError and OSError."""
        target = self.target(name, revision)
        facts = [[file.path, file.size, file.hash, file.tag] for file in files]
        staging = _stage(target, {"url": folder.url, "facts": facts})
        download(files, staging, title=name.rpartition("/")[2], limits=limits)
        sizes = {file.path: (staging / file.path).stat().st_size for file in files}
        write_json(staging / MARKER, {"url": folder.url, "facts": facts, "files": sizes})
        os.replace(staging, target)
        return target


def complete_folder(cache: Path, name: str, revision: str | None) -> Path | None:
    """Return the folder of a model in a cache if its marker exists and every file in it has its size."""
    folder = _folder_of(cache, name, revision)
    files = read_json(folder / MARKER).get("files") if (folder / MARKER).is_file() else None
    is_complete = isinstance(files, dict) and all(_has_size(folder / path, size) for path, size in files.items())
    return folder if is_complete else None


def _folder_of(cache: Path, name: str, revision: str | None) -> Path:
    flat = name if revision is None else f"{name}@{revision}"
    return cache / flat.replace("/", "--")  # flat, because one model's name can begin another's


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _stage(target: Path, record: dict[str, Any]) -> Path:
    """Return the hidden folder for these files. It keeps what an earlier call downloaded of this version only."""
    staging = target.with_name(f".{target.name}.partial")
    if target.exists():
        if not (target / MARKER).is_file():
            raise CheckpointError(
                f"{target} is in the way: it is not a complete download. Remove it, or give its path if it is a model"
            )
        shutil.rmtree(staging, ignore_errors=True)
        os.replace(target, staging)  # files are missing in it
    found = read_json(staging / MARKER) if (staging / MARKER).is_file() else {}
    if any(found.get(key) != value for key, value in record.items()):
        shutil.rmtree(staging, ignore_errors=True)
    sizes = found.get("files")
    for path, size in sizes.items() if isinstance(sizes, dict) else ():
        if (staging / path).is_file() and not _has_size(staging / path, size):
            (staging / path).unlink()
    write_json(staging / MARKER, record)
    return staging


def open_model_scope(endpoint: str, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
    """List the files of a model on modelscope.cn or a mirror. Raises WebError."""
    api = f"{endpoint}/api/v1/models/{name}/repo"
    version = quote(revision or "master", safe="")
    url = f"{api}/files?Revision={version}&Recursive=true"
    try:
        listing = json.loads(read_small(url, limits))
    except (ValueError, RecursionError):
        listing = None
    if not isinstance(listing, dict):
        raise WebError(f"{url} did not answer with a JSON object")
    data = listing.get("Data")
    if not isinstance(data, dict):
        raise WebError(f"{url}: {printable(str(listing.get('Message') or 'no list of files'))}")
    entries = data.get("Files")
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise WebError(f"{url} has no list of files")
    files = {}
    for entry in entries:
        path, size, digest = entry["Path"], entry.get("Size"), entry.get("Sha256") or ""
        file_url = f"{api}?Revision={version}&FilePath={quote(path, safe='')}"
        known_size = size if isinstance(size, int) and size >= 0 else None
        files[path] = RemoteFile(path, file_url, known_size, "sha256", digest, digest or entry.get("Revision") or "")
    return RemoteFolder(f"{endpoint}/models/{name}", "", files.get, lambda file: read_small(file.url, limits))


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("Path"), str)


def open_plain_store(base: str, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
    """Return a web folder without a list, BASE/NAME/FILE: each file that a model may have is asked for."""
    if revision is not None:
        raise WebError(f"it keeps no revisions, so there is no {revision!r}")
    url = f"{base}/{name}"
    known: dict[str, RemoteFile | None] = {}

    def look(path: str) -> RemoteFile | None:
        if path not in known:
            known[path] = _head(path, f"{url}/{path}", limits)
        return known[path]

    return RemoteFolder(url, "", look, lambda file: read_small(file.url, limits))


def _head(path: str, url: str, limits: HubLimits) -> RemoteFile | None:
    """Return what the server states of a file, None if it does not exist."""

    def describe(response: Response) -> RemoteFile:
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        md5 = _hex_of_base64(response.headers.get("Content-MD5", ""))
        size = num_expected_bytes(response)
        return RemoteFile(path, url, size, "md5", md5, tag, is_tag_http=bool(tag))

    for method in ("HEAD", "GET"):  # the body of a GET is not read
        try:
            return _ask(method, url, limits, describe)
        except WebError as error:
            if error.status in ABSENT:
                return None
            if method == "GET" or error.status not in NO_HEAD:
                raise
    raise AssertionError("a GET returns or raises")


def _hex_of_base64(text: str) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == hashlib.md5(usedforsecurity=False).digest_size else ""


def read_small(url: str, limits: HubLimits) -> bytes:
    """Return a body of at most MAX_LIST_BYTES. Raises WebError."""
    return _ask("GET", url, limits, partial(read_body, max_bytes=MAX_LIST_BYTES, name=url))


def _ask(method: str, url: str, limits: HubLimits, use: Callable[[Response], Result]) -> Result:
    """Return what `use` makes of the response. Repeats failures that may pass, within list_seconds. Raises WebError."""
    deadline = time.monotonic() + limits.list_seconds

    def attempt() -> Result:
        clock = ExchangeClock(deadline)
        with request(method, url, headers=AGENT, timeout=limits.timeout, clock=clock) as response:
            return use(response)

    try:
        return limits.retry(attempt, limits.list_retries)
    except OutOfTimeError as error:
        raise WebError(f"it took longer than {limits.list_seconds} s") from error
