"""Models on the Hugging Face hub, through huggingface_hub: its cache, tokens, transfers and resumed downloads."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import partial
from http.client import responses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..output import replacing
from ..tensor_files.stored import CheckpointError
from ..web.clock import in_thread
from ..web.request import PassingWebError, WebError, printable
from .download import RANGE_NOT_SATISFIABLE, check_space, mismatch
from .limits import HubLimits
from .model_files import MAX_LIST_BYTES, RemoteFile, RemoteFolder, has_model, needed
from .stores import complete_folder

# Raised by huggingface_hub for settings and answers that it cannot use. A second attempt does not help.
LASTING = (ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True)
class HuggingFace:
    """huggingface.co or a mirror. own_cache: where downloads go, None for huggingface_hub's cache.

    earlier: the cache of this project's versions before they used huggingface_hub.
    Models in huggingface_hub's cache are found in any case, whichever tool downloaded them.
    """

    endpoint: str
    own_cache: Path | None
    earlier: Path

    @property
    def title(self) -> str:
        return f"the Hugging Face hub ({self.endpoint})"

    @property
    def caches(self) -> list[Path]:
        """Return the caches to search. Downloads go to the first one."""
        return [*([self.own_cache] if self.own_cache else []), Path(_library().constants.HF_HUB_CACHE)]

    @property
    def searched(self) -> list[Path]:
        return [*([self.own_cache.parent] if self.own_cache else []), self.caches[-1]]

    def target(self, name: str, revision: str | None) -> Path:
        return self.caches[0] / f"models--{name.replace('/', '--')}"

    def find(self, name: str, revision: str | None) -> Path | None:
        """Return the snapshot of a revision in one of the caches, None if there is no complete one."""
        for cache in self.caches:
            repo = cache / self.target(name, revision).name
            ref = repo / "refs" / (revision or "main")
            commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
            if commit and _is_complete(repo / "snapshots" / commit):
                return repo / "snapshots" / commit
        return complete_folder(self.earlier, name, revision)

    def open(self, name: str, revision: str | None, limits: HubLimits) -> RemoteFolder:
        """List the files of a model. Raises WebError."""
        if name.count("/") != 1:
            raise WebError("it has no names of this form, expected owner/model")
        ask = partial(_library().HfApi(endpoint=self.endpoint, library_name="paddlemix").model_info, name)
        call = partial(ask, revision=revision or "main", files_metadata=True, timeout=limits.read_seconds)
        late = f"it took longer than {limits.list_seconds} s"
        info = limits.retry(partial(self._call, call, limits.list_seconds, late), limits.list_retries)
        if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
            raise WebError(f"the hub states no commit (sha) of {name}")
        files = {one.rfilename: _remote_file(one) for one in info.siblings or ()}

        def read(file: RemoteFile) -> bytes:
            if (file.size or 0) > MAX_LIST_BYTES:
                raise WebError(f"{file.path} is larger than {MAX_LIST_BYTES} bytes")
            with TemporaryDirectory() as folder:  # the cache takes nothing of a model that may be refused
                hub = replace(self, own_cache=Path(folder))
                return hub._download(name, info.sha, file, limits).read_bytes()

        return RemoteFolder(f"{self.endpoint}/{name}", info.sha, files.get, read)

    def fetch(
        self, name: str, revision: str | None, folder: RemoteFolder, files: list[RemoteFile], limits: HubLimits
    ) -> Path:
        """Download files into the cache and return their snapshot. Raises WebError, CheckpointError and OSError."""
        repo = self.target(name, revision)
        snapshot = repo / "snapshots" / folder.commit
        missing = [file for file in files if not (snapshot / file.path).is_file()]
        check_space(repo, sum(file.size or 0 for file in missing) - _num_partial_bytes(repo))
        for file in files:
            self._download(name, folder.commit, file, limits)
        if revision != folder.commit:
            with replacing(repo / "refs" / (revision or "main")) as ref:  # last, because `find` starts from it
                ref.write(folder.commit.encode())
        return snapshot

    def _download(self, name: str, commit: str, file: RemoteFile, limits: HubLimits) -> Path:
        """Return the path of a file in the cache. A file that has to be downloaded is compared with its hash."""
        repo = self.target(name, None)
        path = repo / "snapshots" / commit / file.path
        if path.is_file() and file.size in (None, path.stat().st_size):
            return path
        if path.is_file():
            _forget(repo, path, file)
        call = partial(
            _library().hf_hub_download,
            *(name, file.path),
            revision=commit,
            cache_dir=str(self.caches[0]),
            endpoint=self.endpoint,
            library_name="paddlemix",
            etag_timeout=limits.read_seconds,
        )
        seconds = 10 * limits.stall_seconds
        late = f"less than {limits.stall_bytes} bytes came in {seconds} s"

        def attempt() -> Path:
            try:
                self._call(call, seconds, late, partial(_num_partial_bytes, repo), limits.stall_bytes)
                if problem := mismatch(file, path):
                    raise PassingWebError(problem, RANGE_NOT_SATISFIABLE)
            except PassingWebError as error:
                if error.status == RANGE_NOT_SATISFIABLE:
                    _forget(repo, path, file)
                raise
            return path

        return limits.retry(attempt, limits.max_retries, partial(_num_partial_bytes, repo), f"{file.path}: ")

    def _call(self, call: Callable[[], Any], seconds: float, late: str, num_bytes=lambda: 0, least: int = 1) -> Any:
        """Return the result of a call of huggingface_hub. Raises WebError, and OSError where the disk refuses.

        late: the error if num_bytes() grows by less than `least` in `seconds`. The library never gives up on a server
        that sends a byte now and then, so it runs in a thread that can be left behind.
        """
        logger = logging.getLogger("huggingface_hub")
        level = logger.level
        logger.setLevel(logging.ERROR)  # its warnings print a server's words unescaped
        try:
            future, before = in_thread(call), num_bytes()
            while not wait([future], seconds).done:
                if num_bytes() - before < least:
                    raise WebError(late)
                before = num_bytes()
            error = future.exception()
        finally:
            logger.setLevel(level)
        if error is None:
            return future.result()
        if isinstance(error, OSError) and error.errno is not None and not hasattr(error, "response"):
            raise error  # from the disk
        raise self._as_web_error(error) from error

    def _as_web_error(self, error: BaseException) -> WebError:
        """Translate an error of huggingface_hub to one line that says what to do."""
        from huggingface_hub import errors, get_token

        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
            error = error.__cause__
        response = getattr(error, "response", None)
        if response is None:
            return _without_answer(error)
        status = response.status_code
        text = f"HTTP status {status} {responses.get(status, '')}".rstrip()
        if isinstance(error, errors.GatedRepoError):
            text += f": gated; accept its terms at {self.endpoint} and set HF_TOKEN (or run `hf auth login`)"
        elif isinstance(error, errors.RevisionNotFoundError):
            text += ": there is no such revision"
        elif status in (401, 403) and not get_token():
            text += ": not there, private or gated (then set HF_TOKEN)"
        may_pass = status >= 500 or status in (408, 429, RANGE_NOT_SATISFIABLE)
        return (PassingWebError if may_pass else WebError)(text, status)


def _without_answer(error: BaseException) -> WebError:
    """Return an error of huggingface_hub that comes without an HTTP status."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return WebError("not asked, because HF_HUB_OFFLINE is set")
    if type(error) is OSError:  # from its check of a file's size
        return PassingWebError(printable(str(error).partition("\n")[0]), RANGE_NOT_SATISFIABLE)
    if isinstance(error, LASTING):
        return WebError(printable(f"huggingface_hub raised {type(error).__name__}: {error}"))
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__
    return PassingWebError(printable(f"{type(error).__name__}: {root}"))


def _library():
    """Return huggingface_hub, without telemetry. It imports its modules when they are used, requests among them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read at its import
    import huggingface_hub.constants

    return huggingface_hub


def _remote_file(sibling) -> RemoteFile:
    if sibling.lfs:
        return RemoteFile(sibling.rfilename, "", sibling.lfs.size, "sha256", sibling.lfs.sha256)
    return RemoteFile(sibling.rfilename, "", sibling.size, "git", sibling.blob_id or "")


def _is_complete(snapshot: Path) -> bool:
    """Return whether a snapshot has weights with all their shards. Other tools may have left only some files in it."""

    def look(path: str) -> RemoteFile | None:
        return RemoteFile(path, "") if (snapshot / path).is_file() else None

    folder = RemoteFolder(str(snapshot), "", look, lambda file: (snapshot / file.path).read_bytes())
    try:
        return has_model(look) and bool(needed(folder))
    except CheckpointError:
        return False


def _num_partial_bytes(repo: Path) -> int:
    """Return roughly how many bytes of unfinished files there are: the mean of their lengths and their disk space.

    It grows if either does: hf_xet may write the end first, and some file systems state no disk space.
    """
    num_bytes = 0
    for path in (repo / "blobs").glob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            num_bytes += (status.st_size + status.st_blocks * 512) // 2
    return num_bytes


def _forget(repo: Path, path: Path, file: RemoteFile) -> None:
    """Remove a file of a snapshot with its content, and what was downloaded of it."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    for part in (repo / "blobs").glob(f"{file.hash or '?'}*.incomplete"):
        part.unlink(missing_ok=True)
