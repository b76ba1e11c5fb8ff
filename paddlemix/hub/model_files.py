"""Choose the files of a hub's folder that a model needs. Downloads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..tensor_files.stored import CheckpointError


@dataclass(frozen=True)
class RemoteFile:
    """One file of a hub. path: below the model's folder, with "/". size: bytes, None where the hub does not state it.

    hash_name, hash: "sha256", "md5" or "git" (SHA-1 of a git blob) and hex digits; hash is "" where none is stated.
    tag: changes when the content does, "" if unknown; only a file with a tag is resumed after a break.
    is_tag_http: the tag is an ETag or a date, which the server itself compares when asked for the rest of a file.
    """

    path: str
    url: str
    size: int | None = None
    hash_name: str = ""
    hash: str = ""
    tag: str = ""
    is_tag_http: bool = False


@dataclass(frozen=True)
class RemoteFolder:
    """A model on a hub. url: for messages. commit: the version, "" where the hub has none.

    look: path -> the file, None if it does not exist. read: the content of a small file. Both raise WebError.
    """

    url: str
    commit: str
    look: Callable[[str], RemoteFile | None]
    read: Callable[[RemoteFile], bytes]


CONFIG = "config.json"
ADAPTER_CONFIGS = ("adapter_config.json", "lora_config.json")
SETTINGS = (
    *("generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template.json"),
    *("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "sentencepiece.bpe.model", "tokenizer.json", "vocab.json", "merges.txt"),
)
# Only the first kind that exists is downloaded: files of these names, each whole or as an index of shards.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model_state.pdparams")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "lora_model_state.pdparams")
ADAPTER_SHARDS = "peft_model.safetensors"  # whole or as an index of shards, PaddleNLP's unified checkpoints
BESIDE_ADAPTER = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"
PROCESSORS = ("processor/eval/preprocessor_config.json", "processor/train/preprocessor_config.json")
RECIPE = "xtuner_config.py"  # read as text, never run
# Folders for a part of a model, each with the file that identifies it.
PARTS = {
    **dict.fromkeys(("llm", "visual_encoder", "projector", "vision_tower"), CONFIG),
    **dict.fromkeys(("llm_adapter", "visual_encoder_adapter"), "adapter_config.json"),
}
SIGNS = (CONFIG, *ADAPTER_CONFIGS, f"projector/{CONFIG}")  # a model has one of them
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_LIST_BYTES = 32 << 20  # of a list of files or an index of shards


def has_model(look: Callable[[str], RemoteFile | None]) -> bool:
    """Return whether a folder has the config file of a model or a part of one."""
    return any(look(sign) for sign in SIGNS)


def needed(folder: RemoteFolder) -> list[RemoteFile]:
    """Return the files that paddlemix reads, the weights of each folder in one format only.

    Images, training states, weights for other frameworks and code are left out. Every name comes from the lists above
    or from an index of shards, which may name plain files only. Raises CheckpointError for an incomplete model.
    """
    files = _present(folder, (CONFIG, *ADAPTER_CONFIGS, *SETTINGS, *PROCESSORS, RECIPE)) + _weights(folder, "")
    for part, sign in PARTS.items():
        if folder.look(f"{part}/{sign}"):
            files += _present(folder, [f"{part}/{name}" for name in (sign, *SETTINGS)]) + _weights(folder, f"{part}/")
    if not any(file.path.endswith((".safetensors", ".bin", ".pdparams")) for file in files):
        raise CheckpointError(
            f"{folder.url} has no weights in a known format, expected one of {', '.join((*WEIGHTS, *ADAPTER_WEIGHTS))}"
        )
    return files


def _present(folder: RemoteFolder, paths) -> list[RemoteFile]:
    found = (folder.look(path) for path in paths)
    return [file for file in found if file is not None]


def _weights(folder: RemoteFolder, start: str) -> list[RemoteFile]:
    """Return the weights below the path `start`: an adapter's, and those of the first format that exists."""
    adapter = _present(folder, [start + name for name in ADAPTER_WEIGHTS])[:1]
    if adapter:
        adapter += _present(folder, [start + BESIDE_ADAPTER])
    else:
        adapter = _whole_or_shards(folder, start, ADAPTER_SHARDS)
    for name in WEIGHTS:
        found = _whole_or_shards(folder, start, name)
        if found:
            return [*adapter, *found]
    return adapter + _present(folder, [start + PROJECTOR])


def _whole_or_shards(folder: RemoteFolder, start: str, name: str) -> list[RemoteFile]:
    """Return an index and its shards, or the one file, or nothing. Raises CheckpointError for missing shards."""
    whole, index = folder.look(start + name), folder.look(f"{start}{name}.index.json")
    names = _shards(folder, index) if index is not None else []
    shards = _present(folder, [start + shard for shard in names])
    if names and len(shards) == len(names):
        return [index, *shards]
    if whole is not None:  # the index without its shards is left from an earlier save
        return [whole]
    if index is not None:
        absent = sorted(set(names) - {file.path.rpartition("/")[2] for file in shards})
        raise CheckpointError(f"{folder.url}: {index.path} names shards that do not exist: {', '.join(absent)}")
    return []


def _shards(folder: RemoteFolder, index: RemoteFile) -> list[str]:
    """Return the names of an index's shards, which are in the same folder."""
    where = f"{folder.url}: {index.path}"
    try:
        names = sorted(set(json.loads(folder.read(index))["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{where} has no 'weight_map' from tensor names to file names") from None
    for name in names:
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise CheckpointError(f"{where} is refused: it names a shard outside its folder, {name!r}")
    return names
