"""The files of a tokenizer: their names, their contents, and writing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_object import parse_object
from ..output import replacing

PADDLE_FILE, SENTENCEPIECE_FILE, FAST_FILE = "sentencepiece.bpe.model", "tokenizer.model", "tokenizer.json"
VOCABULARIES = (PADDLE_FILE, SENTENCEPIECE_FILE, FAST_FILE)  # the first existing one is used, see vocabulary_choice
CONFIG_FILE, SPECIALS_FILE, ADDED_FILE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SETTINGS = (CONFIG_FILE, SPECIALS_FILE, ADDED_FILE)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
MODELS = (PADDLE_FILE, SENTENCEPIECE_FILE)
# Bytes of a file. The largest released ones have 5 and 35 MB; reading one takes ten times its size in memory.
MAX_BYTES = dict.fromkeys(MODELS, 16 << 20) | dict.fromkeys((FAST_FILE, *SETTINGS), 64 << 20)


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of a tokenizer: folder (for messages), name of the vocabulary file, contents by file name.

    notice: why not the first existing vocabulary file is used, empty if it is.
    """

    folder: str
    vocabulary: str
    contents: Mapping[str, bytes]
    notice: str = ""

    @property
    def where(self) -> str:
        """The vocabulary file, for messages."""
        return f"{self.vocabulary} in {self.folder}"

    @property
    def is_sentencepiece(self) -> bool:
        return self.vocabulary in MODELS

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, empty for a missing file; raise ValueError for anything else."""
        if name not in self.contents:
            return {}
        return parse_object(self.contents[name], ValueError, f"{name} in {self.folder}")


def write_files(files: TokenizerFiles, folder: str | Path) -> None:
    """Write the files into a folder, which is made if missing, each completely or not at all.

    Raises ValueError if the folder has files of another tokenizer that would be read along with these.
    """
    folder = Path(folder)
    rivals = [*VOCABULARIES[: VOCABULARIES.index(files.vocabulary)], *SETTINGS]
    found = [name for name in rivals if name not in files.contents and (folder / name).exists()]
    if found:
        raise ValueError(f"{folder} has {', '.join(found)} of another tokenizer: remove it or take another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.contents.items():
        with replacing(folder / name) as file:
            file.write(content)
