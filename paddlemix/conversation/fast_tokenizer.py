"""Tokenize with a tokenizer.json and the `tokenizers` library. Special tokens in text stay text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from ..foreign_json import number
from .added_tokens import MAX_ID, NEVER_READ, AddedToken, check_ids, find_special
from .detokenize import decode
from .fast_spec import (
    check_prefix,
    check_spec,
    plain_spec,
    prefix_schemes,
    read_added,
    special_at,
    starts_with,
    steps_of,
    without_prefix,
)
from .messages import check_unicode
from .step_check import NO_MODEL
from .tokenizer_files import TokenizerFiles, write_files
from .tokenizer_settings import TokenizerSettings, choose_bos, read_settings

SPACE_PIECE = "▁"
BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")
SCORE = number(-1e30, 1e30)


class FastTokenizer:
    """A byte-level (GPT-2, LLaMA 3, Qwen2) or LLaMA-type tokenizer.json, with the ids of transformers' fast tokenizer.

    Added tokens have their ids from the file; the library would renumber them.
    """

    def __init__(self, files: TokenizerFiles):
        self._files = files
        where = files.where
        spec, settings = files.read_json(files.vocabulary), read_settings(files)
        check_spec(spec, where)
        check_prefix(spec, settings.add_prefix_space, where)
        vocabulary = _vocabulary(where, spec)
        self._is_byte_level = _is_byte_level(where, spec)
        self._byte_of = _byte_alphabet() if self._is_byte_level else {}
        tokens = _merge_added(read_added(spec, where), settings, where)
        piece_of = {number: text for text, number in vocabulary.items()}
        check_ids(tokens.values(), piece_of.get, where)

        named = settings.specials | NEVER_READ
        self.specials = {text: token.token_id for text, token in tokens.items()}
        self.specials |= {text: vocabulary[text] for text in named if text in vocabulary}
        self._names = {token_id: text for text, token_id in self.specials.items()}
        ordinary = {text for text, token in tokens.items() if not token.is_special}
        self.hidden_ids = frozenset(i for text, i in self.specials.items() if text not in ordinary)
        self._stripping = {token.token_id for token in tokens.values() if token.strips_right}
        self.vocab_size = max([*vocabulary.values(), *self._names]) + 1
        self._read_roles(spec, settings)
        _build(files, {**spec, "model": NO_MODEL, "added_tokens": []})  # the unused parts have to be valid, too
        self._build_encoders(spec, tokens, self.specials.keys() - ordinary)

    def _read_roles(self, spec: Mapping[str, Any], settings: TokenizerSettings) -> None:
        files = self._files
        self.bos_id, self.eos_id = self.specials.get(settings.bos), self.specials.get(settings.eos)
        if self.eos_id is None:
            raise ValueError(f"tokenizer in {files.folder}: its eos_token {settings.eos!r} is not in the vocabulary")
        self.pad_id = self.specials.get(settings.pad, self.specials.get(settings.unk, self.eos_id))
        is_wanted = starts_with(spec, settings.bos) if settings.add_bos is None else settings.add_bos
        self.add_bos = choose_bos(files, self.bos_id, is_wanted)
        if not settings.has_no_end and (end := special_at(spec, -1)) is not None:
            raise ValueError(f"{files.where}: post_processor adds {end!r} to the end of every text")

    def _build_encoders(self, spec: Mapping[str, Any], tokens: Mapping[str, AddedToken], specials: set[str]) -> None:
        """Build the library's tokenizers for text that starts a stretch and for text that continues one."""
        start = plain_spec(spec, tokens.values(), specials, self._files.where)
        self._start, contents = _build(self._files, start), list(tokens)
        self._start_ids = _renumbered(self._start, tokens.values(), contents)
        parts = {key: without_prefix(spec.get(key)) for key in ("normalizer", "pre_tokenizer")}
        self._continue, self._continue_ids = self._start, self._start_ids
        if any(parts[key] != spec.get(key) for key in parts):
            # A token that is looked for in the normalized text keeps the space that normalizing adds before it.
            contents = [self._normalized(token) for token in tokens.values()]
            renamed = [dict(one, content=text) for one, text in zip(start["added_tokens"], contents, strict=True)]
            self._continue = _build(self._files, {**start, **parts, "added_tokens": renamed})
            self._continue_ids = _renumbered(self._continue, tokens.values(), contents)
        schemes = list(prefix_schemes(spec))
        self.has_text_prefix = any(scheme in ("always", "first") for _, scheme in schemes)
        self._has_prefix_after_special = any(scheme == "always" for _, scheme in schemes)
        is_raw_only = ("pre_tokenizer", "always") not in schemes
        self._restarting = {
            token.token_id
            for token in tokens.values()
            if self._has_prefix_after_special and not (is_raw_only and token.is_normalized)
        }

    def _normalized(self, token: AddedToken) -> str:
        normalizer = self._start.normalizer
        return normalizer.normalize_str(token.text) if token.is_normalized and normalizer is not None else token.text

    def __reduce__(self):
        return FastTokenizer, (self._files,)

    def encode(self, text: str, *, is_start: bool) -> list[int]:
        """See Tokenizer."""
        if not text:
            return []
        check_unicode(text)
        try:
            return self._encode(text, is_start)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust if a pattern backtracks too much
            raise ValueError(f"{self._files.where} cannot encode a text: {error}") from error

    def _encode(self, text: str, is_start: bool) -> list[int]:
        """Return the ids. In a continued text, only what follows the first added token gets a space in front."""
        if is_start:
            ids = self._start.encode(text, add_special_tokens=False).ids
            return [self._start_ids.get(token_id, token_id) for token_id in ids] if self._start_ids else ids
        encoding = self._continue.encode(text, add_special_tokens=False)
        ids = [self._continue_ids.get(token_id, token_id) for token_id in encoding.ids]
        for index, token_id in enumerate(ids):
            if token_id in self._restarting:
                rest = text[encoding.offsets[index][1] :]
                return ids[: index + 1] + (self._encode(rest, True) if rest else [])
        return ids

    def special_id(self, text: str) -> int:
        """See Tokenizer."""
        return find_special(self.specials, text, self._files.folder)

    def special_ids(self, text: str, *, is_start: bool) -> list[int]:
        """See Tokenizer."""
        return [self.special_id(text)]

    def has_prefix_after(self, special_id: int) -> bool:
        """See Tokenizer."""
        return self._has_prefix_after_special

    def is_stripped_after(self, special_id: int) -> bool:
        """See Tokenizer."""
        return special_id in self._stripping

    def id_to_piece(self, token_id: int) -> str:
        """See Tokenizer."""
        piece = self._names.get(token_id)
        if piece is None and 0 <= token_id < self.vocab_size:
            piece = self._start.id_to_token(token_id)
        if piece is None:
            last = self.vocab_size - 1
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self._files.folder} (0..{last})")
        return piece

    def token_bytes(self, token_id: int) -> bytes:
        """See Tokenizer."""
        piece = self.id_to_piece(token_id)
        if token_id in self._names:
            return piece.encode("utf-8")
        if self._is_byte_level:
            return (
                bytes(map(self._byte_of.__getitem__, piece)) if self._byte_of.keys() >= set(piece) else piece.encode()
            )
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_PIECE, " ").encode("utf-8")

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See Tokenizer."""
        return decode(self, ids, skip_special=skip_special)

    def save(self, folder: str | Path) -> None:
        """See Tokenizer."""
        write_files(self._files, folder)


def _build(files: TokenizerFiles, spec: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and panics of Rust are BaseException
        raise ValueError(f"{files.where} is not a tokenizer file: {error}") from error
    built.encode_special_tokens = True  # as text
    return built


def _renumbered(built: tokenizers.Tokenizer, tokens: Iterable[AddedToken], contents: Iterable[str]) -> dict[int, int]:
    """Return the library's ids of added tokens that have other ids in the file, with those ids."""
    pairs = [(built.token_to_id(text), token.token_id) for token, text in zip(tokens, contents, strict=True)]
    return {number: stated for number, stated in pairs if number != stated}


def _merge_added(own: Mapping[str, AddedToken], settings: TokenizerSettings, where: str) -> dict[str, AddedToken]:
    """Return the added tokens of tokenizer.json and of the settings; for a token in both, the settings' flags count."""
    fixed = settings.named | NEVER_READ
    found = {text: replace(token, is_special=token.is_special or text in fixed) for text, token in own.items()}
    for text, token in settings.added.items():
        other = found.get(text, token)
        if other.token_id != token.token_id:
            raise ValueError(
                f"{where} gives the token {text!r} the id {other.token_id}, but the settings give it {token.token_id}"
            )
        found[text] = replace(token, is_special=token.is_special or other.is_special)
    return found


def _vocabulary(where: str, spec: Mapping[str, Any]) -> dict[str, int]:
    """Return text -> id of the vocabulary without added tokens. Raises ValueError."""
    model = spec.get("model")
    stated = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(stated, Mapping):
        found = dict(stated)
    elif isinstance(stated, list) and all(_is_scored(one) for one in stated):
        found = {one[0]: number for number, one in enumerate(stated)}
    else:
        raise ValueError(f"{where} is not a tokenizer file: it has no vocabulary")
    wrong = next((text for text, number in found.items() if type(number) is not int or not 0 <= number <= MAX_ID), None)
    if wrong is not None:
        raise ValueError(f"{where}: {wrong!r} has the id {found.get(wrong)!r}, expected a number from 0 to {MAX_ID}")
    if len(found) < len(stated) or len(set(found.values())) < len(found):
        raise ValueError(f"{where}: {_repeated(stated)} is twice in the vocabulary")
    return found


def _is_scored(one: Any) -> bool:
    """Return whether a value is a piece with its score."""
    return isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and SCORE.is_good(one[1])


def _repeated(stated: Mapping[str, int] | list) -> str:
    """Return the name of a repeated id, or of a repeated piece in a list."""
    names = [f"the id {number}" for number in stated.values()] if isinstance(stated, Mapping) else []
    names = names or [repr(text) for text, _ in stated]
    return next(name for name, count in Counter(names).items() if count > 1)


def _is_byte_level(where: str, spec: Mapping[str, Any]) -> bool:
    """Return whether pieces are spelled in the byte alphabet; raise ValueError for a decoder that is not supported."""
    kinds = {step["type"] for step in steps_of(spec.get("decoder"), where)}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace"}:
        return False
    found = ", ".join(sorted(kinds)) or "none"
    raise ValueError(f"{where} has the decoder {found}: expected a byte-level or a LLaMA-type tokenizer")


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of the byte-level alphabet (GPT-2, encoder.py: bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
