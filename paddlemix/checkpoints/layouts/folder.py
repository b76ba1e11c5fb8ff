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
from ...tensor_files.shards import read_index
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...terminal.sizes import plural

T = TypeVar("T")
Reader = Callable[[Path], dict[str, StoredTensor]]


@dataclass(frozen=True)
class Folder:
    """A folder, or a single weight file, and everything that was read from it.

    _cache: parsed results by key, shared with the folders that `related` returns, so that each file is opened once.
    """

    path: Path
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

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

    def related(self, path: str | Path) -> Folder:
        """Return another folder that belongs to the same checkpoint."""
        return Folder(Path(path), self._cache)

    def has_any(self, *names: str) -> bool:
        """Return whether one of the files exists."""
        return any((self.path / name).is_file() for name in names)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of `make`, which is called only for the first request of a key in this folder."""
        return self._cached((self.path, key), make)

    def _cached(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def content(self, name: str) -> bytes:
        """Return the bytes of a small file. Raises CheckpointError."""
        path = self.path / name
        return self._cached((path, "content"), lambda: read_content(path, CheckpointError, str(path)))

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, not to be modified. Raises CheckpointError with the place of a syntax error."""
        return self._cached(
            (self / name, "json"), lambda: parse_object(self.content(name), CheckpointError, str(self / name))
        )

    def finite_json(self, name: str) -> dict[str, Any]:
        """Return a JSON object that describes a model. Raises CheckpointError for NaN and Infinity too."""
        values = self.json(name)
        check_finite(values, str(self / name), CheckpointError)
        return values

    def tensors(self, name: str, open_file: Reader) -> dict[str, StoredTensor]:
        """Return the tensors of one weight file, mapped."""
        return self._cached((self / name, "tensors"), lambda: open_file(self.path / name))

    def index(self, name: str) -> dict[str, str]:
        """Return the tensor names and files of an index of shards."""
        return self._cached((self / name, "index"), lambda: read_index(self.path / name))

    def weights(self, single: str, index: str, open_file: Reader) -> dict[str, StoredTensor]:
        """Return the tensors of the file `single`, else of the shards that `index` lists. Raises CheckpointError.

        The single file comes first, as in transformers: an index beside it belongs to an earlier save. An index can
        only name files of its own folder. These may be symbolic links, as in the cache of the Hugging Face hub: an
        index cannot create a link, and whoever can put a link there could put the file there as well.
        """
        if self.has_any(single):
            return self.tensors(single, open_file)
        if not self.has_any(index):
            raise CheckpointError(f"{self} has neither {single} nor {index}: the weights are missing")
        weight_map, tensors = self.index(index), {}
        for shard in sorted(set(weight_map.values())):
            if not self.has_any(shard):
                raise CheckpointError(f"shard {shard} is missing in {self}: copy or download the folder again")
            found = self.tensors(shard, open_file)
            twice = sorted(name for name in found if name in tensors)
            if twice:
                raise CheckpointError(f"{self / shard} holds tensors that another shard holds too: {preview(twice)}")
            tensors |= found
        absent = sorted(set(weight_map) - set(tensors))
        if absent:
            counted, are = plural(len(absent), "tensor"), "is" if len(absent) == 1 else "are"
            raise CheckpointError(f"{self}: {counted} of {index} {are} in no shard: {preview(absent)}")
        return tensors

    def tokenizer_files(self) -> TokenizerFiles | None:
        """Return the tokenizer's files, None where there is no vocabulary. Raises ValueError."""
        if not self.has_any(*VOCABULARIES):
            return None
        return self.cached("tokenizer files", lambda: read_files(self.path, lambda path: self.content(path.name)))
