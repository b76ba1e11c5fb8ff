"""From a name such as liuhaotian/llava-v1.6-vicuna-7b to a folder on this machine: local, in the cache, or downloaded.

A download grows in a hidden folder beside its place and is renamed when it is whole, so that half of one is never
found. Whoever needs the same model meanwhile waits at a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.log import notice
from ..web.request import WebError
from .download import download
from .model_files import RemoteFile, RemoteFolder, needed
from .sources import DEFAULT_LIMITS, Hub, HubLimits, HuggingFace, ModelScope, PlainStore, check_endpoint

# owner/name, or with more parts in the Paddle store; a single word is taken for a folder that was misspelt.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){1,3}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
MARKER = ".paddlemix_download.json"
# Where each hub's address comes from when the environment does not set it.
PADDLE_STORE = ("COMMUNITY_MODEL_PREFIX", "https://bj.bcebos.com/paddlenlp/models/community")
HUGGING_FACE = ("HF_ENDPOINT", "https://huggingface.co")
MODEL_SCOPE = ("MODELSCOPE_DOMAIN", "https://www.modelscope.cn")
OWN_STORE = "PADDLEMIX_HUB_URL"
_IS_OFFLINE: ContextVar[bool] = ContextVar("_IS_OFFLINE", default=False)


class HubError(CheckpointError):
    """A model that could not be found or downloaded; the text lists the places that were tried."""


def resolve(
    name_or_path,
    *,
    hub: str | None = None,
    revision: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    limits: HubLimits = DEFAULT_LIMITS,
) -> Path:
    """Return the path of a model: an existing path itself, else its folder in the cache, else after a download.

    hub: "auto", "paddle", "hf", "modelscope" or an address; None takes $PADDLEMIX_HUB, else "auto", which asks nobody
    for work_dirs/modle where the folder work_dirs is here: that is rather a path with a mistake in it. cache: None
    takes $PADDLEMIX_CACHE/models, else ~/.cache/paddlemix/models. PADDLEMIX_OFFLINE=1 forbids every download.
    Raises HubError with the places that were tried.
    """
    path = Path(os.path.expanduser(name_or_path))  # pathlib's raises for a user that does not exist
    if path.exists():
        return path
    name = str(name_or_path)
    if not is_name(name):
        raise _no_folder(path)
    tried = [f"the folder {path.absolute()}: it does not exist"]
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"revision {revision!r} is not the name of a branch, a tag or a commit")
    choice = hub or os.environ.get("PADDLEMIX_HUB")
    hubs = hubs_of(choice or "auto")
    models = cache_folder(cache)
    homes = {one.key: _home(models, one, name, revision) for one in hubs}
    for home in homes.values():
        if is_whole(home):
            return home
    if not choice and path.parent.is_dir():
        raise _no_folder(path)
    tried.append(f"the cache {models}: no whole copy of it")
    if is_offline():
        reason = "nothing is downloaded now" if _IS_OFFLINE.get() else "PADDLEMIX_OFFLINE is set"
        raise _not_found(name, [*tried, *(f"{one.title}: not asked, because {reason}" for one in hubs)])
    for one in hubs:
        notice(f"looking for {name} at {one.title}")
        try:
            folder = one.open(name, revision, limits)
        except WebError as error:
            tried.append(f"{one.title}: {error}")
            continue
        return _fetch(name, one, folder, homes[one.key], limits)
    raise _not_found(name, tried)


def is_name(text: str) -> bool:
    """Tell if a text can be the name of a model on a hub."""
    return NAME.fullmatch(text) is not None and ".." not in text


def _no_folder(path: Path) -> HubError:
    return HubError(
        f"model folder {path} does not exist (looked for {path.absolute()}): give the path of a model folder, or the "
        "name of a model on a hub (owner/model)"
    )


def _not_found(name: str, tried: list[str]) -> HubError:
    places = "\n".join(f"  - {place}" for place in tried)
    return HubError(
        f"model {name!r} was not found. Looked for in:\n{places}\n"
        "Give the path of a model folder, or a name (owner/model) that one of the hubs knows"
    )


@contextmanager
def offline() -> Iterator[None]:
    """Take what is on this machine only, as long as the block runs."""
    token = _IS_OFFLINE.set(True)
    try:
        yield
    finally:
        _IS_OFFLINE.reset(token)


def is_offline() -> bool:
    return _IS_OFFLINE.get() or os.environ.get("PADDLEMIX_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder below which downloaded models are kept, one folder for each hub."""
    if cache is None:
        cache = Path(os.environ.get("PADDLEMIX_CACHE") or "~/.cache/paddlemix") / "models"
    try:
        return Path(cache).expanduser()
    except RuntimeError as error:
        raise HubError(f"the cache is {str(cache)!r}, but there is no such user: set PADDLEMIX_CACHE") from error


def hubs_of(choice: str) -> list[Hub]:
    """Return the hubs to ask, in order. Raises CheckpointError for an unknown choice or address."""
    own = os.environ.get(OWN_STORE)
    paddle = _endpoint(PADDLE_STORE)
    known: dict[str, Hub] = {
        "paddle": PlainStore(paddle, f"the Paddle community store ({paddle})", "paddle"),
        "hf": HuggingFace(_endpoint(HUGGING_FACE), os.environ.get("HF_TOKEN", "").strip()),
        "modelscope": ModelScope(_endpoint(MODEL_SCOPE)),
    }
    if choice == "auto":
        return [*([_store(own, OWN_STORE)] if own else []), *known.values()]
    if choice in known:
        return [known[choice]]
    if "://" in choice:
        return [_store(choice, "the hub")]
    raise CheckpointError(f"unknown hub {choice!r}: expected auto, {', '.join(known)} or an address (https://...)")


def _endpoint(place: tuple[str, str]) -> str:
    variable, default = place
    url = os.environ.get(variable) or default
    return check_endpoint(url if "://" in url else f"https://{url}", variable)


def _store(url: str, origin: str) -> PlainStore:
    base = check_endpoint(url, origin)
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", base.partition("://")[2])[:40]
    return PlainStore(base, base, f"{readable}-{hashlib.sha256(base.encode()).hexdigest()[:8]}")


def _home(models: Path, hub: Hub, name: str, revision: str | None) -> Path:
    flat = name if revision is None else f"{name}@{revision}"
    return models / hub.key / flat.replace("/", "--")  # flat, because one model's name can begin another's


def is_whole(home: Path) -> bool:
    """Tell if a download's marker is there and every file of its list has its size."""
    if not (home / MARKER).is_file():
        return False
    files = read_json(home / MARKER).get("files")
    if not isinstance(files, dict):
        return False
    return all((home / path).is_file() and (home / path).stat().st_size == size for path, size in files.items())


def _fetch(name: str, hub: Hub, folder: RemoteFolder, home: Path, limits: HubLimits) -> Path:
    """Download a model that a hub has, unless another process did while we waited for the lock."""
    try:
        files = needed(folder)
        with locked(home, name):
            if is_whole(home):
                return home
            staging = _stage(home, folder, files)
            num_bytes = sum(file.size or 0 for file in files)
            notice(f"downloading {name} from {hub.title}: {num_bytes / 1e6:.1f} MB in {len(files)} files, to {home}")
            download(files, staging, title=name.rpartition("/")[2], headers=folder.headers, limits=limits)
            _finish(staging, home, folder, files)
    except WebError as error:
        raise HubError(
            f"the download of {name} from {hub.title} broke off: {error}. What was loaded is kept: run the same "
            "command again to go on, or choose another place with --hub or PADDLEMIX_HUB"
        ) from error
    return home


def _stage(home: Path, folder: RemoteFolder, files: list[RemoteFile]) -> Path:
    """Return the hidden folder in which exactly these files are gathered, with what is there of them already."""
    facts = [[file.path, file.size, file.hash, file.tag] for file in files]
    key = hashlib.sha256(json.dumps([folder.url, facts]).encode()).hexdigest()[:12]
    staging = home.with_name(f".{home.name}.{key}.partial")
    if home.exists():
        _take_back(home, staging)
    staging.mkdir(parents=True, exist_ok=True)
    return staging


def _take_back(home: Path, staging: Path) -> None:
    """Turn a download that lost files into an unfinished one. Raises HubError for a folder that is not ours."""
    if not (home / MARKER).is_file():
        raise HubError(f"{home} is in the way: it is no whole download. Remove it, or give its path if it is a model")
    recorded = read_json(home / MARKER)
    is_same = recorded.get("staging") == staging.name and isinstance(recorded.get("files"), dict)
    if staging.exists() or not is_same:
        shutil.rmtree(home)  # another version, or one that is being gathered already
        return
    for path, size in recorded["files"].items():
        if (home / path).is_file() and (home / path).stat().st_size != size:
            (home / path).unlink()
    os.replace(home, staging)
    (staging / MARKER).unlink()


def _finish(staging: Path, home: Path, folder: RemoteFolder, files: list[RemoteFile]) -> None:
    """Mark a folder whole, give it its name, and remove what was gathered of other versions."""
    sizes = {file.path: (staging / file.path).stat().st_size for file in files}
    write_json(staging / MARKER, {"url": folder.url, "commit": folder.commit, "staging": staging.name, "files": sizes})
    os.replace(staging, home)
    for old in home.parent.glob(f".{home.name}.*.partial"):
        if re.fullmatch(r"[0-9a-f]{12}", old.name[len(home.name) + 2 : -len(".partial")]):
            shutil.rmtree(old)


@contextmanager
def locked(home: Path, name: str) -> Iterator[None]:
    """Hold the lock of one folder of the cache; it ends with the process, however that ends."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        file = open(home.with_name(f".{home.name}.lock"), "a+b")  # noqa: SIM115
    except OSError as error:
        raise HubError(
            f"cannot write to the cache {home.parent}: {error.strerror}; set PADDLEMIX_CACHE to a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"another process is downloading {name}, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
