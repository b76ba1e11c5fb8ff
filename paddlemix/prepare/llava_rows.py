"""Check and repair the rows of LLaVA's own training files, and of files made after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..data.readers.errors import BadRowError
from ..data.readers.files import LEADING_ANSWER, read_row
from ..data.row_note import SKIPPED
from ..image.load import is_address
from .image_tree import ImageTree
from .row import Made, Note, RowError, file_name_of, shown

REMOVED = "an answer before the first question was removed"
NO_IMAGE = "rows without an image"


@dataclass(frozen=True)
class LlavaRows:
    """How the rows of a file become rows to train on.

    folders: of images, by which they are counted; "" for all. bare_folder: of images that are named without one. tree:
    where to look for the images; None to not look. prefix: put before the paths in the end.
    """

    folders: tuple[str, ...] = ()
    bare_folder: str = ""
    tree: ImageTree | None = None
    prefix: str = ""

    def convert(self, row: dict[str, Any]) -> Iterator[Made]:
        """Yield the row as training takes it, and notes of what it has and what was changed."""
        notices, turns = checked(row), row["conversations"]
        if LEADING_ANSWER in notices:
            first = 1 if _role(turns[0]) == "system" else 0
            turns = turns[:first] + turns[first + 1 :]
            notices = [REMOVED if one == LEADING_ANSWER else one for one in notices]
        made: dict[str, Any] = {"id": str(row["id"])} if "id" in row else {}
        names, notes = self._images(row.get("image"))
        if names:
            made["image"] = names if isinstance(row["image"], list) else names[0]
        rest = {key: value for key, value in row.items() if key not in ("id", "image", "conversations")}
        yield {**made, "conversations": turns, **rest}
        yield from map(Note, [*notices, *notes])

    def _images(self, stated: Any) -> tuple[list[str], list[str]]:
        """Return the paths of the images of a row, and notes about them."""
        if stated in (None, "", []):
            return [], [NO_IMAGE]
        found, notes = [], []
        for one in stated if isinstance(stated, list) else [stated]:
            if isinstance(one, str) and is_address(one):
                found.append(one)
                continue
            name = file_name_of({"image": one}, "image")
            name = name if "/" in name or not self.bare_folder else f"{self.bare_folder}/{name}"
            there, note = self._found(name)
            found.append(f"{self.prefix.rstrip('/')}/{there}" if self.prefix else there)
            notes += [f"images in {self._folder(name)}", *note]
        return found, notes

    def _found(self, name: str) -> tuple[str, list[str]]:
        """Return the path of an image as it is on disk, and a note if that differs from the row's."""
        if self.tree is None or self.tree.has(name):
            return name, []
        folder, found = self._folder(name), self.tree.find(name)
        if found is None:
            raise RowError(f"no image in {folder}", f"there is no {name}")
        return found, [f"images in {folder} under another ending or in other capitals: the row follows the file"]

    def _folder(self, name: str) -> str:
        known = next((one for one in self.folders if not one or name.startswith(f"{one}/")), None)
        return name.rpartition("/")[0] or "." if known is None else known or "the image folder"


def checked(row: dict[str, Any]) -> list[str]:
    """Return training's notices about a row of LLaVA's form. Raises RowError if it cannot be trained on."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise RowError("no conversations", f"'conversations' is {shown(turns)}, expected a list of turns")
    try:
        conversation, notices = read_row(row)
    except ValueError as error:
        kind = error.kind if isinstance(error, BadRowError) else "wrong_row"
        raise RowError(SKIPPED[kind], str(error)) from None
    stated = row.get("image") or []
    if len(conversation.images) != len(stated if isinstance(stated, list) else [stated]):
        raise RowError("images under another key", "expected the images of the row under 'image'")
    return notices


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("from") or turn.get("role"))
