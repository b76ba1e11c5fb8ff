"""Download files into a folder: resumed after breaks, checked, and under their own names only when they are right."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..tensor_files.stored import CheckpointError
from ..terminal.sizes import in_bytes
from ..web.clock import ExchangeClock
from ..web.request import OutOfTimeError, PassingWebError, chunks, num_expected_bytes, request
from .limits import HubLimits
from .model_files import RemoteFile

AGENT = {"User-Agent": "paddlemix (model loader)"}
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416
HASH_BYTES = 1 << 22


def download(files: list[RemoteFile], folder: Path, *, title: str, limits: HubLimits) -> None:
    """Download files into a folder that holds nothing but what earlier calls for the same files left.

    Raises WebError for a file that cannot be had, CheckpointError for a disk without room. Keeps what has come.
    """
    from tqdm import tqdm  # here, because a model that is in the cache should not wait for it

    total = sum(file.size or 0 for file in files)
    check_space(folder, total - sum(_num_bytes(folder / file.path) for file in files))
    # disable=None: no bar where standard error is not a terminal
    with tqdm(total=total or None, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as progress:
        for file in files:
            _download_file(file, folder / file.path, limits, progress.update)


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError if the disk of a folder has no room for so many bytes."""
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    if num_bytes > free:
        raise CheckpointError(f"{no_room(folder)}: {in_bytes(num_bytes)} to come, {in_bytes(free)} are free")


def no_room(folder: Path) -> str:
    return f"the disk of {folder} has no room for this model (free some, or set PADDLEMIX_CACHE to another folder)"


def _download_file(file: RemoteFile, target: Path, limits: HubLimits, advance: Callable[[int], object]) -> None:
    """Download one file. Raises WebError."""
    part = target.with_name(target.name + ".part")
    advance(_num_bytes(target) or _num_bytes(part))
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> None:
        try:
            _append(file, part, limits, advance)
        except OutOfTimeError as error:
            text = f"less than {limits.stall_bytes} bytes came in {limits.stall_seconds} s"
            raise PassingWebError(text) from error
        if problem := mismatch(file, part):
            if _num_bytes(part) >= (file.size or 0):  # nothing is missing, so the bytes are wrong
                part.unlink()
            raise PassingWebError(problem)

    limits.retry(attempt, limits.max_retries, partial(_num_bytes, part), f"{file.path}: ")
    os.replace(part, target)


def _append(file: RemoteFile, part: Path, limits: HubLimits, advance: Callable[[int], object]) -> None:
    """Make one request for the missing rest of a file. Start anew where the server does not send a rest."""
    start = _num_bytes(part) if file.tag else 0  # without a tag, `part` may be the start of another version
    if file.size is not None and start == file.size and part.is_file():
        return
    wanted = {**AGENT}
    if start:
        wanted["Range"] = f"bytes={start}-"
        if file.is_tag_http and not file.tag.startswith("W/"):
            wanted["If-Range"] = file.tag  # if the file has changed, the server sends the whole new one
    accepted = (200, PARTIAL, RANGE_NOT_SATISFIABLE)
    clock = ExchangeClock(time.monotonic() + limits.list_seconds)
    with request("GET", file.url, headers=wanted, timeout=limits.timeout, clock=clock, accepted=accepted) as response:
        if response.status_code == RANGE_NOT_SATISFIABLE:
            _forget(part, advance)
            raise PassingWebError(f"the server has no bytes from {start} on")
        is_rest = response.status_code == PARTIAL
        if is_rest and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            raise PassingWebError(f"the server sent another part than the one from byte {start} on")
        if not is_rest:
            _forget(part, advance)
            start = 0
        expected = num_expected_bytes(response)
        if None not in (expected, file.size) and start + expected != file.size:
            raise PassingWebError(f"the server has {start + expected} bytes, the hub lists {file.size}")
        with open(part, "ab") as output:
            for chunk in _in_time(chunks(response), clock, limits):  # raises when it ends before Content-Length
                output.write(chunk)
                advance(len(chunk))
                if file.size is not None and output.tell() > file.size:
                    break  # the rest may be endless; `mismatch` reports it


def _in_time(blocks: Iterator[bytes], clock: ExchangeClock, limits: HubLimits) -> Iterator[bytes]:
    """Yield the blocks of a body; restart the clock after every stall_bytes."""
    clock.restart(limits.stall_seconds)
    num_bytes = 0
    for block in blocks:
        num_bytes += len(block)
        if num_bytes >= limits.stall_bytes:
            clock.restart(limits.stall_seconds)
            num_bytes = 0
        yield block


def mismatch(file: RemoteFile, path: Path) -> str:
    """Return how a downloaded file differs from the hub's list, "" if it does not."""
    found = _num_bytes(path)
    if file.size is not None and found != file.size:
        return f"{found} bytes came, the hub lists {file.size}"
    digest = _digest(path, file.hash_name) if file.hash else ""
    return "" if digest == file.hash else f"its {file.hash_name} hash is {digest}, the hub lists {file.hash}"


def _digest(path: Path, hash_name: str) -> str:
    if hash_name == "git":
        hasher = hashlib.sha1(b"blob %d\0" % _num_bytes(path), usedforsecurity=False)
    else:
        hasher = hashlib.new(hash_name, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(HASH_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _forget(part: Path, advance: Callable[[int], object]) -> None:
    advance(-_num_bytes(part))
    part.unlink(missing_ok=True)


def _num_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
