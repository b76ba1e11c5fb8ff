"""Where the folder lies that a config only names: a base model, a language model, a vision tower."""

from __future__ import annotations

import os
from pathlib import Path

from ..tensor_files.stored import CheckpointError
from . import hub


def find_folder(name: str, home: Path) -> Path | None:
    """Return the folder here that a config in `home` means by `name`, or None. `home` itself never counts."""
    for place in _places(name, home):
        if place.is_dir() and place.resolve() != Path(home).resolve():
            return place
    return None


def fetch_folder(name: str, home: Path, *, what: str, advice: str, revision: str | None = None) -> Path:
    """Return the folder that a name means, by way of the hubs where it is nowhere here and looks like owner/name.

    what: how `home` comes to need it, and advice: what the user can do; both are parts of the error's sentence.
    revision: the branch, tag or commit to take from a hub, None for the main one. Raises CheckpointError.
    """
    found = find_folder(name, home)
    if found is not None:
        return found
    failure = ""
    if hub.is_name(name):
        try:
            return Path(hub.resolve(name, revision=revision))
        except (CheckpointError, OSError) as error:
            failure = f" ({error})"
    looked = ", ".join(str(place) for place in dict.fromkeys(_places(name, home)))
    raise CheckpointError(f"{home} {what} {name}, which does not exist (looked for {looked}){failure}: {advice}")


def _places(name: str, home: Path) -> list[Path]:
    """Return the path itself (a relative one from `home`, then from the working folder), and the name beside `home`."""
    path = Path(os.path.expanduser(name))  # pathlib's raises for a user that does not exist
    found = [path] if path.is_absolute() else [Path(home) / path, path]
    return [*found, Path(home).absolute().parent / path.name] if path.name not in ("", "..") else found
