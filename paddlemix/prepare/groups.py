"""Groups of rows that belong together: those with an image in common, or with the same value of a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .row import Problem, RowError, shown
from .row_images import images_of

IMAGE, ROW = "image", "row"


class Links:
    """Which images are named together by a row. Memory holds only images of rows that have several.

    The name of a group is its first image in alphabetical order, so that it does not depend on the order of the rows.
    """

    def __init__(self):
        self._parents: dict[str, str] = {}

    def add(self, images: list[str]) -> None:
        """Note that a row names these images."""
        for other in images[1:]:
            first, second = sorted((self.name(images[0]), self.name(other)))
            if first != second:
                self._parents[second] = first

    def name(self, image: str) -> str:
        """Return the name of the group of an image."""
        path = []
        while image in self._parents:
            path.append(image)
            image = self._parents[image]
        for one in path:
            self._parents[one] = image
        return image


def links_in(rows: Iterable[Any]) -> Links:
    """Return the links that the values of rows make. Rows that cannot be read make none."""
    links = Links()
    for row in rows:
        if isinstance(row, Problem):
            continue
        try:
            images = images_of(row)
        except RowError:
            continue  # it is dropped, and counted, when it is converted
        if len(images) > 1:
            links.add(images)
    return links


def group_of(row: Mapping[str, Any], number: int, by: str, links: Links) -> str:
    """Return the name of the group of a row.

    by: IMAGE (a row without images is alone), ROW (each is alone) or a key of the rows. Raises RowError without it.
    """
    if by == IMAGE:
        images = images_of(row)
        return f"image {links.name(images[0])}" if images else f"row {number}"
    if by == ROW:
        return f"row {number}"
    value = row.get(by)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"no group {by}", f"{by!r} is {shown(value)}, expected a text or a number")
    return f"key {value}"
