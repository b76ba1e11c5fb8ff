"""The hubs: how each lists its files and what their addresses are. Writes nothing to disk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from ..tensor_files.stored import CheckpointError
from ..web.clock import ExchangeClock
from ..web.request import OutOfTimeError, PassingWebError, WebError, chunks, num_expected_bytes, printable, request
from .model_files import SIGNS, RemoteFile, RemoteFolder

Answer = TypeVar("Answer")
AGENT = {"User-Agent": "paddlemix (model loader)"}
MAX_LIST_BYTES = 32 << 20
ABSENT = (403, 404, 410)  # 403: what an object store says of a missing file when its folder may not be listed
NO_HEAD = (405, 501)


@dataclass(frozen=True)
class HubLimits:
    """How patient a download is.

    connect_seconds, read_seconds: one connection, one wait for bytes. list_seconds: a list of files as a whole, and
    what tells about one file. list_retries: of it. A file may take any time, but each stall_seconds must bring
    stall_bytes of it. max_retries: attempts in a row that bring nothing new of a file, or stall. retry_seconds: pause
    before the first retry, doubled for each further one, at most max_pause_seconds.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    list_seconds: float = 60.0
    list_retries: int = 2
    stall_seconds: float = 60.0
    stall_bytes: int = 1 << 16
    max_retries: int = 4
    retry_seconds: float = 1.0
    max_pause_seconds: float = 20.0

    @property
    def timeout(self) -> tuple[float, float]:
        return self.connect_seconds, self.read_seconds

    def pause(self, num_failures: int) -> None:
        """Wait before the next attempt."""
        time.sleep(min(self.retry_seconds * 2 ** (num_failures - 1), self.max_pause_seconds))


DEFAULT_LIMITS = HubLimits()


class Hub(Protocol):
    """title: for messages. key: the name of its folder in the cache."""

    title: str
    key: str

    def open(self, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
        """Find a model; raise WebError when it is not there or the hub cannot be reached."""


def retried(attempt: Callable[[ExchangeClock], Answer], limits: HubLimits) -> Answer:
    """Return what an attempt gives, made again after failures that may pass, within list_seconds. Raises WebError."""
    deadline = time.monotonic() + limits.list_seconds
    for num_failures in range(1, limits.list_retries + 2):
        try:
            return attempt(ExchangeClock(deadline))
        except PassingWebError as error:
            failure = error
        except OutOfTimeError as error:
            raise WebError(f"it took longer than {limits.list_seconds} s") from error
        if num_failures <= limits.list_retries:
            limits.pause(num_failures)
    raise WebError(f"{failure} (gave up after {limits.list_retries + 1} attempts)", failure.status) from failure


def read_small(url: str, headers: Mapping[str, str], limits: HubLimits) -> bytes:
    """Return a body of at most MAX_LIST_BYTES. Raises WebError."""

    def attempt(clock: ExchangeClock) -> bytes:
        body = bytearray()
        with request("GET", url, headers={**AGENT, **headers}, timeout=limits.timeout, clock=clock) as response:
            expected = num_expected_bytes(response)
            for chunk in chunks(response):
                body += chunk
                if len(body) > MAX_LIST_BYTES:
                    raise WebError(f"{url} is larger than {MAX_LIST_BYTES} bytes")
        if expected is not None and len(body) < expected:
            raise PassingWebError(f"short body: {len(body)} bytes of {expected}")
        return bytes(body)

    return retried(attempt, limits)


def _read_list(url: str, headers: Mapping[str, str], limits: HubLimits) -> dict[str, Any]:
    try:
        value = json.loads(read_small(url, headers, limits))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WebError(f"{url} did not answer with a JSON object")
    return value


def _listed(url: str, commit: str, headers: dict, files: list[RemoteFile], limits: HubLimits) -> RemoteFolder:
    by_path = {file.path: file for file in files}
    if not any(sign in by_path for sign in SIGNS):
        raise WebError(f"there is a folder of this name, but no {SIGNS[0]} in it")
    return RemoteFolder(url, commit, headers, by_path.get, lambda file: read_small(file.url, headers, limits))


@dataclass(frozen=True)
class HuggingFace:
    """huggingface.co or a mirror of it. token: for private and gated models."""

    endpoint: str
    token: str = ""
    key: str = "hf"

    @property
    def title(self) -> str:
        return f"the Hugging Face hub ({self.endpoint})"

    def open(self, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.endpoint}/api/models/{name}/revision/{quote(revision or 'main', safe='')}?blobs=true"
        try:
            listing = _read_list(url, headers, limits)
        except WebError as error:
            if error.status in (401, 403) and not self.token:
                raise WebError(f"{error}: not there, private or gated (then set HF_TOKEN)", error.status) from error
            raise
        commit = listing.get("sha")
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{6,64}", commit):
            raise WebError(f"{url} tells no commit (sha)")
        files = [self._file(name, commit, entry) for entry in _entries(url, listing.get("siblings"), "rfilename")]
        return _listed(f"{self.endpoint}/{name}", commit, headers, files, limits)

    def _file(self, name: str, commit: str, entry: dict[str, Any]) -> RemoteFile:
        path = entry["rfilename"]
        lfs = entry.get("lfs") if isinstance(entry.get("lfs"), dict) else {}
        hash_name, digest = ("sha256", lfs["sha256"]) if lfs.get("sha256") else ("git", entry.get("blobId") or "")
        if lfs and hash_name == "git":
            digest = ""  # the blob of a large file is a pointer to it
        size = lfs.get("size", entry.get("size"))
        url = f"{self.endpoint}/{name}/resolve/{commit}/{quote(path)}"
        return RemoteFile(path, url, _size(size), hash_name if digest else "", digest, tag=digest or commit)


@dataclass(frozen=True)
class ModelScope:
    """modelscope.cn."""

    endpoint: str
    key: str = "modelscope"

    @property
    def title(self) -> str:
        return f"ModelScope ({self.endpoint})"

    def open(self, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
        api = f"{self.endpoint}/api/v1/models/{name}/repo"
        version = quote(revision or "master", safe="")
        url = f"{api}/files?Revision={version}&Recursive=true"
        listing = _read_list(url, {}, limits)
        data = listing.get("Data")
        if not isinstance(data, dict):
            raise WebError(f"{url}: {printable(str(listing.get('Message') or 'no list of files'))}")
        files = [
            RemoteFile(
                entry["Path"],
                f"{api}?Revision={version}&FilePath={quote(entry['Path'], safe='')}",
                _size(entry.get("Size")),
                "sha256" if entry.get("Sha256") else "",
                entry.get("Sha256") or "",
                tag=entry.get("Sha256") or entry.get("Revision") or "",
            )
            for entry in _entries(url, data.get("Files"), "Path")
            if entry.get("Type") != "tree"
        ]
        return _listed(f"{self.endpoint}/models/{name}", "", {}, files, limits)


@dataclass(frozen=True)
class PlainStore:
    """A web folder without a list, BASE/NAME/FILE: names that a model may have are asked for one by one."""

    base: str
    title: str
    key: str

    def open(self, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
        if revision is not None:
            raise WebError(f"it keeps no revisions, so there is no {revision!r}")
        url = f"{self.base}/{name}"
        known: dict[str, RemoteFile | None] = {}

        def look(path: str) -> RemoteFile | None:
            if path not in known:
                known[path] = _head(path, f"{url}/{path}", limits)
            return known[path]

        if not any(look(sign) for sign in SIGNS):
            raise WebError(f"no {SIGNS[0]} under {url}", 404)
        return RemoteFolder(url, "", {}, look, lambda file: read_small(file.url, {}, limits))


def _head(path: str, url: str, limits: HubLimits) -> RemoteFile | None:
    """Ask whether a file is there and what its server tells of it."""

    def attempt(method: str, clock: ExchangeClock) -> RemoteFile:
        with request(method, url, headers=AGENT, timeout=limits.timeout, clock=clock) as response:
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            md5 = _hex_of_base64(response.headers.get("Content-MD5", ""))
            return RemoteFile(
                path, url, num_expected_bytes(response), "md5" if md5 else "", md5, tag, is_tag_http=bool(tag)
            )

    try:
        return retried(partial(attempt, "HEAD"), limits)
    except WebError as error:
        if error.status in ABSENT:
            return None
        if error.status not in NO_HEAD:
            raise
    try:
        return retried(partial(attempt, "GET"), limits)  # its body stays unread
    except WebError as error:
        if error.status in ABSENT:
            return None
        raise


def _hex_of_base64(text: str) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == hashlib.md5(usedforsecurity=False).digest_size else ""


def _entries(url: str, entries, key: str) -> list[dict]:
    """Return the entries of a list of files. Raises WebError for a list of something else."""
    is_list = isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get(key), str) for entry in entries
    )
    if not is_list:
        raise WebError(f"{url} holds no list of files")
    return entries


def _size(value) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def check_endpoint(url: str, origin: str) -> str:
    """Return a base address without a slash at its end; raise CheckpointError if it is not http(s)."""
    if not re.match(r"https?://[^/]+", url):
        raise CheckpointError(f"{origin} is {url!r}, expected an address that begins with http:// or https://")
    return url.rstrip("/")
