"""A checkpoint's folder. Each of its files is opened once, no matter how many readers ask for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...conversation.tokenizer_files import VOCABULARIES, TokenizerFiles
from ...conversation.vocabulary_choice import read_files
from ...foreign_json import check_finite
from ...json_object import parse_object, read_content
from ...tensor_files.shards import open_weights, read_index
from ...tensor_files.stored import CheckpointError, StoredTensor

T = TypeVar("T")
Reader = Callable[[Path], dict[str, StoredTensor]]


@dataclass(frozen=True)
class Folder:
    """A folder, or a single weight file, and everything that was read from it.

    made: results by key. Folders returned by `at` share it, so that a file that two of them name is opened once.
    """

    path: Path
    made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, path: str | Path | Folder) -> Folder:
        """Return a folder as it is, and a path as a new one."""
        return path if isinstance(path, Folder) else cls(Path(path))

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str | Path) -> Path:
        return self.path / name

    def at(self, path: str | Path) -> Folder:
        """Return another folder that belongs to the same checkpoint."""
        return Folder(Path(path), self.made)

    def has(self, *names: str) -> bool:
        """Return whether one of the files exists."""
        return any((self.path / name).is_file() for name in names)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned the first time that this folder was asked for the key."""
        return self._once((self.path, key), make)

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def content(self, name: str) -> bytes:
        """Return the bytes of a small file. Raises CheckpointError."""
        path = self.path / name
        return self._once((path, "content"), lambda: read_content(path, CheckpointError, str(path)))

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, not to be modified. Raises CheckpointError with the place of a syntax error."""
        return self._once(
            (self / name, "json"), lambda: parse_object(self.content(name), CheckpointError, str(self / name))
        )

    def finite_json(self, name: str) -> dict[str, Any]:
        """Return a JSON object that describes a model. Raises CheckpointError for NaN and Infinity too."""
        values = self.json(name)
        check_finite(values, str(self / name), CheckpointError)
        return values

    def tensors(self, name: str, open_file: Reader) -> dict[str, StoredTensor]:
        """Return the tensors of one weight file, mapped."""
        return self._once((self / name, "tensors"), lambda: open_file(self.path / name))

    def index(self, name: str) -> dict[str, str]:
        """Return the tensor names and files of an index of shards."""
        return self._once((self / name, "index"), lambda: read_index(self.path / name))

    def weights(self, single: str, index: str, open_file: Reader) -> dict[str, StoredTensor]:
        """Return the tensors of the file `single`, or of the shards that `index` lists. Raises CheckpointError."""
        return open_weights(
            self.path,
            single,
            index,
            lambda path: self.tensors(path.name, open_file),
            lambda path: self.index(path.name),
        )

    def tokenizer_files(self) -> TokenizerFiles | None:
        """Return the tokenizer's files, None where there is no vocabulary. Raises ValueError."""
        if not self.has(*VOCABULARIES):
            return None
        return self.once("tokenizer files", lambda: read_files(self.path, lambda path: self.content(path.name)))
