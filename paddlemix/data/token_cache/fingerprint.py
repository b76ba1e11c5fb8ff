"""What the samples of a cache depend on, as JSON values, and how two of them differ, in words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...conversation.templates import ChatTemplate
from ...conversation.tokenizer import Tokenizer
from ...image.spec import ImageSpec

ENCODING = 1  # to be raised when the same row would get other tokens or tiles
CHUNK = 1 << 20  # bytes


def encoding_facts(tokenizer: Tokenizer, template: ChatTemplate, spec: ImageSpec, max_length: int) -> dict[str, Any]:
    """Return all that decides which sample a conversation becomes, its text and images aside."""
    facts = {
        "encoding": ENCODING,
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "vocab_size": tokenizer.vocab_size,
            "digest": _tokenizer_digest(tokenizer),
        },
        "template": {
            "name": template.name,
            "digest": _digest(repr(template).encode()),
            **({"image_marks": True} if template.has_image_marks else {}),
        },
        "image": dataclasses.asdict(spec),
        "max_length": max_length,
    }
    return json.loads(json.dumps(facts))  # tuples become lists, as in the file


def differences(before: Mapping[str, Any], now: Mapping[str, Any], owner: str = "") -> list[str]:
    """Return a text for each value that differs: "max_length was 512, and is 2048"."""
    found = []
    for key in dict.fromkeys((*before, *now)):
        old, new, name = before.get(key), now.get(key), f"{owner}{key}"
        if old == new or key == "digest":
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name} ") or [f"{name} has other content"]
        else:
            found.append(f"{name} was {_shown(old)}, and is {_shown(new)}")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def file_facts(path: str | Path) -> dict[str, Any]:
    """Return name, absolute path, size, time of the last change and SHA-256 of a data file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return {
        "file": str(path),
        "path": os.path.abspath(path),
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "sha256": digest.hexdigest(),
    }


def has_changed(facts: Mapping[str, Any]) -> bool:
    """Return whether a data file is there and has other content than at the time of its facts.

    A file with the same size and time is not read. One that is not there cannot have changed: a cache may move to a
    machine without the raw files.
    """
    try:
        found = os.stat(facts["path"])
    except (OSError, ValueError):
        return False
    if found.st_size != facts["bytes"] or not stat.S_ISREG(found.st_mode):
        return True
    return found.st_mtime_ns != facts["mtime_ns"] and file_facts(facts["path"])["sha256"] != facts["sha256"]


def _tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return a hash of the files of a tokenizer, as it would save them."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        parts = [part for path in paths for part in (path.name.encode(), path.read_bytes())]
    return _digest(*parts)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
