"""Tokenizer files for tools of transformers: tokenizer.model, and the settings that PaddleMIX leaves unsaid."""

from __future__ import annotations

from pathlib import Path

from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import (
    CONFIG_FILE,
    FAST_FILE,
    PADDLE_FILE,
    SENTENCEPIECE_FILE,
    VOCABULARIES,
)
from ..files import CheckpointError, read_json, write_json


def write_tokenizer(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Write a tokenizer as LlamaTokenizer reads it. Raises CheckpointError when it has more tokens than the model."""
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model has only {vocab_size} rows"
        )
    tokenizer.save(folder)
    vocabulary = next(name for name in VOCABULARIES if (folder / name).is_file())
    settings = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    if vocabulary == PADDLE_FILE:  # its reader, PaddleMIX's, always is of the older kind
        (folder / PADDLE_FILE).rename(folder / SENTENCEPIECE_FILE)
        settings["legacy"] = True
    is_fast = vocabulary == FAST_FILE
    has_code = settings.pop("auto_map", None) is not None  # InternLM's, whose classes come with its folders only
    if has_code or settings.get("tokenizer_class") in (None, "LLavaTokenizer"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast" if is_fast else "LlamaTokenizer"
    settings.setdefault("add_bos_token", tokenizer.add_bos)
    settings.setdefault("eos_token", tokenizer.id_to_piece(tokenizer.eos_id))
    if tokenizer.bos_id is not None:
        settings.setdefault("bos_token", tokenizer.id_to_piece(tokenizer.bos_id))
    if "<unk>" in tokenizer.specials:
        settings.setdefault("unk_token", "<unk>")
    write_json(folder / CONFIG_FILE, settings)
