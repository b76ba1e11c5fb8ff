"""Resolve the name of a model (liuhaotian/llava-v1.6-vicuna-7b) or a path to a folder on this machine.

Looks for a local folder, then in the caches, then on the hubs. Processes that want the same model wait at a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from ..output import NO_SPACE
from ..tensor_files.stored import CheckpointError
from ..terminal.log import notice, progress
from ..terminal.sizes import plural
from ..web.request import WebError
from .download import no_room
from .huggingface import HuggingFace
from .limits import DEFAULT_LIMITS, HubLimits
from .model_files import RemoteFolder, has_model, needed
from .stores import Store, open_model_scope, open_plain_store

# owner/name, or with more parts in the Paddle store. A single word is a misspelled folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){1,3}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
# The variable with each hub's address, and the address without it.
PADDLE_STORE = ("COMMUNITY_MODEL_PREFIX", "https://bj.bcebos.com/paddlenlp/models/community")
HUGGING_FACE = ("HF_ENDPOINT", "https://huggingface.co")
MODEL_SCOPE = ("MODELSCOPE_DOMAIN", "https://www.modelscope.cn")
OWN_STORE = "PADDLEMIX_HUB_URL"
EXPECTED = "give the path of a model folder, or the name of a model on a hub (owner/model)"
# What a resolver says about an address that it does not know, or cannot ask anybody about.
UNKNOWN_ADDRESS = re.compile(r"Failed to resolve|Name or service not known|Temporary failure in name resolution")
UNREACHED = "not reached: its address is not known here (no network, or a proxy is needed)"
Hub = Store | HuggingFace
_IS_OFFLINE: ContextVar[bool] = ContextVar("_IS_OFFLINE", default=False)


class HubError(CheckpointError):
    """A model that could not be found or downloaded. The text lists the places that were tried."""


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    hub: str | None = None,
    revision: str | None = None,
    limits: HubLimits = DEFAULT_LIMITS,
) -> Path:
    """Return the folder of a model: an existing path itself, else a folder in a cache, else a download.

    hub: "auto", "paddle", "hf", "modelscope" or an address. None takes $PADDLEMIX_HUB, else "auto", but then no hub is
    asked for work_dirs/modle where the folder work_dirs exists: that is rather a misspelled path. Downloads go to
    $PADDLEMIX_CACHE/models, else to ~/.cache/paddlemix/models, and for the Hugging Face hub to huggingface_hub's own
    cache, where models are found in any case. PADDLEMIX_OFFLINE=1 forbids downloads.
    Raises HubError with the places that were tried.
    """
    path = Path(os.path.expanduser(name_or_path))  # pathlib's raises for a user that does not exist
    name = str(name_or_path)
    if not name:
        raise HubError(f"the path of the model is empty: {EXPECTED}")
    if path.exists():
        return path
    if not is_name(name):
        raise _no_folder(path)
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"revision {revision!r} is not the name of a branch, a tag or a commit")
    choice = hub or os.environ.get("PADDLEMIX_HUB")
    hubs = hubs_of(choice or "auto")
    for one in hubs:
        if found := one.find(name, revision):
            return found
    if not choice and path.parent.is_dir():
        raise _no_folder(path)
    caches = " and ".join(dict.fromkeys(str(cache) for one in hubs for cache in one.searched))
    tried = [f"the folder {path.absolute()}: it does not exist", f"the cache {caches}: no complete copy"]
    if is_offline():
        reason = "nothing is downloaded now" if _IS_OFFLINE.get() else "PADDLEMIX_OFFLINE is set"
        raise _not_found(name, [*tried, *(f"{one.title}: not asked, because {reason}" for one in hubs)])
    return _download(name, revision, hubs, tried, limits)


def _download(name: str, revision: str | None, hubs: list[Hub], tried: list[str], limits: HubLimits) -> Path:
    """Download a model from the first hub that has it. Raises HubError with the places that were tried."""
    tried = list(tried)
    progress(f"looking for {name} at {hubs[0].title if len(hubs) == 1 else plural(len(hubs), 'hub')}")
    for one in hubs:
        try:
            folder = one.open(name, revision, limits)
            if has_model(folder.look):
                return _fetch(name, revision, one, folder, limits)
            tried.append(f"{one.title}: no config.json under {folder.url}")
        except WebError as error:
            reason = UNREACHED if UNKNOWN_ADDRESS.search(str(error)) else error
            tried.append(f"{one.title}: {reason}")
    raise _not_found(name, tried)


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a model on a hub."""
    return NAME.fullmatch(text) is not None and ".." not in text


def _no_folder(path: Path) -> HubError:
    looked = "" if path.is_absolute() else f" (looked for {path.absolute()})"
    return HubError(f"model folder {path} does not exist{looked}: {EXPECTED}")


def _not_found(name: str, tried: list[str]) -> HubError:
    places = "\n".join(f"  - {place}" for place in tried)
    return HubError(
        f"model {name!r} was not found. Looked for in:\n{places}\n"
        "Give the path of a model folder, or a name (owner/model) that is on one of the hubs"
    )


@contextmanager
def offline() -> Iterator[None]:
    """Use only what is on this machine while the block runs."""
    token = _IS_OFFLINE.set(True)
    try:
        yield
    finally:
        _IS_OFFLINE.reset(token)


def is_offline() -> bool:
    return _IS_OFFLINE.get() or os.environ.get("PADDLEMIX_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def hubs_of(choice: str) -> list[Hub]:
    """Return the hubs to ask, in order. Raises CheckpointError for an unknown choice or address."""
    set_cache = os.environ.get("PADDLEMIX_CACHE")
    models = Path(set_cache or "~/.cache/paddlemix") / "models"
    try:
        models = models.expanduser()
    except RuntimeError as error:
        raise HubError(f"the cache is {str(models)!r}, but there is no such user: set PADDLEMIX_CACHE") from error
    own = os.environ.get(OWN_STORE)
    paddle, scope = _endpoint(PADDLE_STORE), _endpoint(MODEL_SCOPE)
    known: dict[str, Hub] = {
        "paddle": Store(f"the Paddle community store ({paddle})", models / "paddle", partial(open_plain_store, paddle)),
        "hf": HuggingFace(_endpoint(HUGGING_FACE), models / "hf" if set_cache else None, earlier=models / "hf"),
        "modelscope": Store(f"ModelScope ({scope})", models / "modelscope", partial(open_model_scope, scope)),
    }
    if choice == "auto":
        return [*([_store_at(own, OWN_STORE, models)] if own else []), *known.values()]
    if choice in known:
        return [known[choice]]
    if "://" in choice:
        return [_store_at(choice, "the hub", models)]
    raise CheckpointError(f"unknown hub {choice!r}: expected auto, {', '.join(known)} or an address (https://...)")


def _endpoint(place: tuple[str, str]) -> str:
    variable, default = place
    url = os.environ.get(variable) or default
    return _checked_address(url if "://" in url else f"https://{url}", variable)


def _store_at(url: str, origin: str, models: Path) -> Store:
    base = _checked_address(url, origin)
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", base.partition("://")[2])[:40]
    cache = models / f"{readable}-{hashlib.sha256(base.encode()).hexdigest()[:8]}"
    return Store(base, cache, partial(open_plain_store, base))


def _checked_address(url: str, origin: str) -> str:
    """Return a base address without a slash at its end. Raises CheckpointError if it is not http(s)."""
    if not re.match(r"https?://[^/]+", url):
        raise CheckpointError(f"{origin} is {url!r}, expected an address that begins with http:// or https://")
    return url.rstrip("/")


def _fetch(name: str, revision: str | None, hub: Hub, folder: RemoteFolder, limits: HubLimits) -> Path:
    """Download a model that a hub has, unless another process did while this one waited for the lock."""
    target = hub.target(name, revision)
    try:
        files = needed(folder)
        with _locked(target, name):
            if found := hub.find(name, revision):
                return found
            megabytes = sum(file.size or 0 for file in files) / 1e6
            notice(
                f"downloading {name} from {hub.title}: {megabytes:.1f} MB in {plural(len(files), 'file')}, to {target}"
            )
            return hub.fetch(name, revision, folder, files, limits)
    except WebError as error:
        raise HubError(
            f"the download of {name} from {hub.title} broke off: {error}. What was downloaded is kept: run the same "
            "command again to continue, or choose another hub with --hub or PADDLEMIX_HUB"
        ) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise CheckpointError(f"{no_room(target)}: {error.strerror}; what was downloaded is kept") from error
        raise


@contextmanager
def _locked(target: Path, name: str) -> Iterator[None]:
    """Hold the lock of one model in the cache. It ends with the process, however that ends."""
    try:
        folder = target.parent / ".locks"  # huggingface_hub's folder for locks, which its tools leave alone
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / f"{target.name}.lock", "a+b")  # noqa: SIM115
    except OSError as error:
        raise HubError(
            f"cannot write to the cache {target.parent}: {error.strerror}; set PADDLEMIX_CACHE to a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"another process is downloading {name}, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_folder(name: str, folder: Path) -> Path | None:
    """Return the folder on this machine that a config in `folder` means by `name`, or None. Never `folder` itself."""
    for place in _places(name, folder):
        if place.is_dir() and place.resolve() != Path(folder).resolve():
            return place
    return None


def fetch_folder(name: str, folder: Path, *, what: str, advice: str, revision: str | None = None) -> Path:
    """Return the folder that a config in `folder` means by `name`. Asks the hubs for a name that is not found here.

    what: how `folder` comes to need it, advice: what the user can do. Both are parts of the error's sentence.
    revision: the branch, tag or commit on a hub, None for the main one. Raises CheckpointError.
    """
    found = find_folder(name, folder)
    if found is not None:
        return found
    failure = ""
    if is_name(name):
        try:
            return resolve(name, revision=revision)
        except (CheckpointError, OSError) as error:
            failure = f" ({error})"
    looked = ", ".join(str(place) for place in dict.fromkeys(_places(name, folder)))
    raise CheckpointError(f"{folder} {what} {name}, which does not exist (looked for {looked}){failure}: {advice}")


def _places(name: str, folder: Path) -> list[Path]:
    """Return the path itself (relative to `folder`, then to the working folder), and the name beside `folder`."""
    path = Path(os.path.expanduser(name))  # pathlib's raises for a user that does not exist
    found = [path] if path.is_absolute() else [Path(folder) / path, path]
    return [*found, Path(folder).absolute().parent / path.name] if path.name not in ("", "..") else found
