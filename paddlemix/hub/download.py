"""Files of a hub to disk: taken up again after breaks, checked, and under their names only when they are right."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..tensor_files.stored import CheckpointError
from ..terminal.sizes import in_bytes
from ..web.clock import ExchangeClock
from ..web.request import OutOfTimeError, PassingWebError, WebError, chunks, num_expected_bytes, request
from .model_files import RemoteFile
from .sources import AGENT, HubLimits

PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416
HASH_BYTES = 1 << 22
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(
    files: list[RemoteFile], folder: Path, *, title: str, headers: Mapping[str, str], limits: HubLimits
) -> None:
    """Bring files into a folder that holds nothing but what earlier calls for the same files left.

    Raises WebError when a file cannot be had, CheckpointError when the disk is full; what was loaded is kept.
    """
    from tqdm import tqdm  # here, because whoever has the model should not wait for it

    done = sum(_num_bytes(folder / file.path) for file in files)
    _check_space(folder, sum(file.size or 0 for file in files) - done)
    total = sum(file.size or 0 for file in files)
    try:
        # disable=None: no bar where nobody looks at it
        with tqdm(
            total=total or None, desc=title, unit="B", unit_scale=True, unit_divisor=1024, disable=None
        ) as progress:
            for file in files:
                _download_file(file, folder / file.path, headers, limits, progress.update)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise CheckpointError(f"{_full(folder)}: {error.strerror}; what was loaded is kept") from error
        raise


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise CheckpointError(f"{_full(folder)}: {in_bytes(num_bytes)} to come, {in_bytes(free)} are free")


def _full(folder: Path) -> str:
    return f"the disk of {folder} has no room for this model (free some, or set PADDLEMIX_CACHE to another folder)"


def _download_file(
    file: RemoteFile, target: Path, headers: Mapping[str, str], limits: HubLimits, advance: Callable[[int], object]
) -> None:
    """Bring one file, in as many attempts as bring something new and max_retries that do not."""
    if target.is_file():
        advance(_num_bytes(target))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    advance(_num_bytes(part))
    most, num_failures = _num_bytes(part), 0
    while True:
        has_stalled = False
        try:
            _append(file, part, headers, limits, advance)
            _check(file, part)
            break
        except PassingWebError as error:
            failure = error
        except OutOfTimeError:
            failure = WebError(f"less than {limits.stall_bytes} bytes came in {limits.stall_seconds} s")
            has_stalled = True
        except WebError as error:
            raise WebError(f"{file.path}: {error}", error.status) from error
        num_failures = 1 if _num_bytes(part) > most and not has_stalled else num_failures + 1
        most = max(most, _num_bytes(part))
        if num_failures > limits.max_retries:
            raise WebError(f"{file.path}: {failure} (gave up after {num_failures} attempts in a row)") from failure
        limits.pause(num_failures)
    os.replace(part, target)


def _append(file: RemoteFile, part: Path, headers: Mapping[str, str], limits: HubLimits, advance) -> None:
    """Make one request for what is missing of a file; start anew where the server does not give a rest."""
    start = _num_bytes(part) if file.tag else 0  # without one nothing tells if it begins the same file
    if file.size is not None and start == file.size and part.is_file():
        return
    wanted = {**AGENT, **headers}
    if start:
        wanted["Range"] = f"bytes={start}-"
        if file.is_tag_http and not file.tag.startswith("W/"):
            wanted["If-Range"] = file.tag  # changed meanwhile: the server gives the whole of the new one
    accepted = (200, PARTIAL, RANGE_NOT_SATISFIABLE)
    clock = ExchangeClock(time.monotonic() + limits.list_seconds)
    with request("GET", file.url, headers=wanted, timeout=limits.timeout, clock=clock, accepted=accepted) as response:
        if response.status_code == RANGE_NOT_SATISFIABLE:
            _forget(part, advance)
            raise PassingWebError(f"the server has no bytes from {start} on")
        is_rest = response.status_code == PARTIAL
        if is_rest and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            raise PassingWebError(f"the server gave another part than the one from byte {start} on")
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
                if file.size is not None and output.tell() > file.size:  # `_check` says so: the rest may have no end
                    break


def _in_time(blocks: Iterator[bytes], clock: ExchangeClock, limits: HubLimits) -> Iterator[bytes]:
    """Yield the blocks of a body; the clock starts again whenever stall_bytes of it have come."""
    clock.restart(limits.stall_seconds)
    num_bytes = 0
    for block in blocks:
        num_bytes += len(block)
        if num_bytes >= limits.stall_bytes:
            clock.restart(limits.stall_seconds)
            num_bytes = 0
        yield block


def _check(file: RemoteFile, part: Path) -> None:
    """Raise PassingWebError, and forget the bytes, if they are not those that the hub lists."""
    found = _num_bytes(part)
    if file.size is not None and found != file.size:
        if found > file.size:
            part.unlink()
        raise PassingWebError(f"{found} bytes came, the hub lists {file.size}")
    if not file.hash:
        return
    digest = _digest(part, file.hash_name)
    if digest != file.hash:
        part.unlink()
        raise PassingWebError(f"its {file.hash_name} hash is {digest}, the hub lists {file.hash}")


def _digest(path: Path, hash_name: str) -> str:
    if hash_name == "git":
        hasher = hashlib.sha1(b"blob %d\0" % _num_bytes(path), usedforsecurity=False)
    else:
        hasher = hashlib.new(hash_name, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(HASH_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _forget(part: Path, advance) -> None:
    advance(-_num_bytes(part))
    part.unlink(missing_ok=True)


def _num_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
