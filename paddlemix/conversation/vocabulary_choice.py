"""Choose the vocabulary of a tokenizer folder: its SentencePiece model or its tokenizer.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sentencepiece

from ..terminal.sizes import in_bytes
from .tokenizer_files import ADDED_FILE, CONFIG_FILE, FAST_FILE, MAX_BYTES, SETTINGS, VOCABULARIES, TokenizerFiles

TIKTOKEN = "it is a list of byte pieces, the form of LLaMA 3's first release"


def read_files(folder: str | Path, read: Callable[[Path], bytes] = Path.read_bytes) -> TokenizerFiles:
    """Return the tokenizer files of a folder; raise ValueError if it has no vocabulary.

    A SentencePiece model has priority over tokenizer.json, because LLaVA was trained with the slow tokenizer, unless it
    cannot be read or has another vocabulary. Tokens that only tokenizer.json adds to the vocabulary count in any case.
    read: returns the bytes of a settings file, for a caller that has read it already.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"tokenizer folder not found: {os.path.abspath(folder)}")
    there = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not there:
        raise ValueError(f"no tokenizer in {folder}: expected one of {', '.join(VOCABULARIES)}")
    contents = {there[0]: _content(folder / there[0])}
    contents |= {name: _content(folder / name, read) for name in SETTINGS if (folder / name).is_file()}
    first = TokenizerFiles(str(folder), there[0], contents)
    if there[0] == FAST_FILE or FAST_FILE not in there:
        return first
    settings = {name: content for name, content in contents.items() if name in SETTINGS}
    fast = TokenizerFiles(str(folder), FAST_FILE, {FAST_FILE: _content(folder / FAST_FILE), **settings})
    return _choose(first, fast)


def _content(path: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
    size, limit = path.stat().st_size, MAX_BYTES[path.name]
    if size > limit:
        raise ValueError(f"{path} has {in_bytes(size)}, expected at most {in_bytes(limit)} for a tokenizer")
    return read(path) if size else b""  # reading a file that the kernel shows as empty may block


def _choose(first: TokenizerFiles, fast: TokenizerFiles) -> TokenizerFiles:
    try:
        spec = fast.read_json(FAST_FILE)
        named = _names(spec)
    except ValueError as error:
        return replace(first, notice=f"{first.vocabulary} is used, since {error}")
    content = first.contents[first.vocabulary]
    try:
        if not content:
            raise RuntimeError("it is empty")  # the library accepts it as an empty model
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
        reason = _difference(model, spec, named, _added_ids(first))
    except RuntimeError:
        model, reason = None, f"is not a SentencePiece model{f' ({TIKTOKEN})' if is_tiktoken(content) else ''}"
    if reason:
        return replace(fast, notice=f"{first.vocabulary} in {first.folder} {reason}: {FAST_FILE} is used")
    return _with_added_tokens(first, spec, model)


def is_tiktoken(content: bytes) -> bool:
    """Return whether a vocabulary file is a list of base64 pieces with their ranks."""
    words = content[:200].split(b"\n")[0].split()
    return len(words) == 2 and words[1].isdigit()


def _names(spec: Mapping[str, Any]) -> dict[int, str]:
    """Return id -> text of a tokenizer.json's vocabulary. Raises ValueError for another form."""
    model = spec.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping) and all(type(number) is int for number in vocabulary.values()):
        return {number: text for text, number in vocabulary.items()}
    if isinstance(vocabulary, list) and all(
        isinstance(one, list) and one and isinstance(one[0], str) for one in vocabulary
    ):
        return {number: one[0] for number, one in enumerate(vocabulary)}
    raise ValueError(f"{FAST_FILE} beside it has no vocabulary")


def _added_ids(files: TokenizerFiles) -> set[int]:
    """Return the ids of added tokens in the settings files, whatever their texts."""
    decoder = files.read_json(CONFIG_FILE).get("added_tokens_decoder")
    numbers = [*(decoder if isinstance(decoder, Mapping) else ()), *files.read_json(ADDED_FILE).values()]
    return {
        int(number) for number in numbers if isinstance(number, int) or (isinstance(number, str) and number.isdecimal())
    }


def _added_of(spec: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    tokens = spec.get("added_tokens")
    tokens = tokens if isinstance(tokens, list) else []
    return {one["id"]: one for one in tokens if isinstance(one, Mapping) and type(one.get("id")) is int}


def _difference(model: Any, spec: Mapping[str, Any], named: Mapping[int, str], added: set[int]) -> str:
    """Return the first difference between a model and tokenizer.json, empty if there is none.

    Control symbols, bytes and unused pieces are ignored, since transformers' converters rename them. So are ids of
    added tokens, which may replace a piece.
    """
    numbers = list(range(len(model)))
    pieces, added = model.id_to_piece(numbers), added | _added_of(spec).keys()
    number_of = {text: number for number, text in named.items()}
    other_kinds = (model.is_control, model.is_unknown, model.is_byte, model.is_unused)
    for number, piece in enumerate(pieces):
        if named.get(number) == piece or number in added or any(is_kind(number) for is_kind in other_kinds):
            continue
        place = number_of.get(piece)
        if place is None or place >= len(pieces) or pieces[place] != piece:  # a piece may occur twice
            return f"has {piece!r} as id {number}, {FAST_FILE} has {named.get(number)!r} there"
    more = sorted(number for number in named if number >= len(pieces) and number not in added)
    return f"ends at id {len(pieces) - 1}, {FAST_FILE} at {more[-1]}" if more else ""


def _with_added_tokens(files: TokenizerFiles, spec: Mapping[str, Any], model: Any) -> TokenizerFiles:
    """Return the files with the added tokens that only tokenizer.json has, as in folders of transformers 5."""
    config, known = files.read_json(CONFIG_FILE), _added_ids(files)
    missing = {
        str(number): {key: value for key, value in token.items() if key != "id"}
        for number, token in _added_of(spec).items()
        if number not in known and not (0 <= number < len(model) and model.id_to_piece(number) == token.get("content"))
    }
    decoder = config.get("added_tokens_decoder") or {}
    if not missing or not isinstance(decoder, Mapping):
        return files
    listed = files.read_json(ADDED_FILE) if not decoder else {}
    decoder = {**{str(number): {"content": text} for text, number in listed.items()}, **decoder, **missing}
    content = json.dumps({**config, "added_tokens_decoder": decoder}, indent=2, ensure_ascii=False).encode()
    return replace(files, contents={**files.contents, CONFIG_FILE: content})
