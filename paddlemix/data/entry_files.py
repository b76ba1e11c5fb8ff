"""Check the files that the entries of a `dataset` value name, all of them before any row is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conversation.paddlemix_template import check_chat_template
from ..conversation.templates import ChatTemplate
from ..terminal.visible import visible
from .mixture import CACHE, HDF5, Entry, check_exists, parse_entries

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mistake:
    """Why training would stop. hides_rows: the rows of the split cannot be read until it is mended."""

    split: str
    text: str
    hides_rows: bool = True


def find_mistakes(
    dataset: Any,
    splits: Iterable[str],
    *,
    template: ChatTemplate,
    config_folder: str | Path | None = None,
    image_folder: str | None = None,
) -> list[Mistake]:
    """Return what is wrong with the entries of some splits and with the files that they name.

    template: the template of the training, with which each `chat_template` file is compared: differences are logged,
    other roles are a mistake. config_folder and image_folder: as for `scan_mixture`.
    """
    found = []
    for split in splits:
        try:
            entries = parse_entries(dataset, split)
        except ValueError as error:
            text = str(error)
            found += [Mistake(split, text)] if text not in [mistake.text for mistake in found] else []
            continue
        for number, entry in enumerate(entries, start=1):
            owner = f"dataset {split!r}, entry {number}"
            for check, hides_rows in _checks(entry, owner, template, config_folder, image_folder):
                found += [Mistake(split, text, hides_rows) for text in _error_of(check)]
    return found


def refuse_mistakes(mistakes: list[Mistake]) -> None:
    """Raise ValueError with all mistakes, if there are any."""
    texts = [mistake.text for mistake in mistakes]
    if len(texts) == 1:
        raise ValueError(texts[0])
    if texts:
        raise ValueError("\n  ".join([f"the dataset of the configuration has {len(texts)} mistakes:", *texts]))


def _error_of(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except ValueError as error:
        return [str(error)]
    return []


def _checks(
    entry: Entry, owner: str, template: ChatTemplate, config_folder: str | Path | None, image_folder: str | None
) -> Iterator[tuple[Callable[[], None], bool]]:
    """Yield the checks of an entry, and whether its rows cannot be read where the check fails."""
    is_there, what = os.path.isfile, "data file"
    if entry.name == HDF5:
        is_there, what = os.path.exists, "data file or folder"
    if entry.name == CACHE:
        is_there, what = os.path.isdir, "token cache"
    for file in entry.data_files:
        yield lambda file=file: check_exists(file, is_there, what, owner, config_folder), True
    folder = image_folder if entry.image_folder is None else entry.image_folder
    if folder is not None:
        yield lambda: check_exists(folder, os.path.isdir, "image_folder", owner, config_folder), True
    if entry.chat_template is not None:
        yield lambda: _check_template(entry.chat_template, template, owner, config_folder), False


def _check_template(file: str, template: ChatTemplate, owner: str, config_folder: str | Path | None) -> None:
    remedy = (
        f"; remove 'chat_template' from the entry, or copy the file from the folder of PaddleMIX's model: it is only "
        f"compared with the model's template, {template.name}, which is used (conv_mode names another one)"
    )
    check_exists(file, os.path.isfile, "chat_template", owner, config_folder, remedy)
    try:
        differences = check_chat_template(file, template)
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error
    for difference in differences:
        logger.warning("%s", visible(f"{owner}: chat_template {file}: {difference}"))
