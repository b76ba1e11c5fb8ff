"""The interface of rows that were encoded before: those of a token cache and of HDF5 files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .measure import RowFacts
from .sample import Sample


class Encoded(Protocol):
    """A row that was encoded before. Can be pickled, so that other processes read it."""

    def failure(self) -> tuple[str, str] | None:
        """Return why the row is skipped, a kind of `row_note.SKIPPED` and a reason; None if it is not."""

    def sample(self, folders: Sequence[str]) -> tuple[Sample, int]:
        """Return the sample, with its images loaded, and how many turns were dropped. Raises as `encode_turns`."""

    def facts(self, folders: Sequence[str], sizes: dict[str, Any], *, is_thorough: bool) -> RowFacts:
        """Return the measurements. Images are opened if is_thorough, with a cache of their sizes as in `Measure`."""
