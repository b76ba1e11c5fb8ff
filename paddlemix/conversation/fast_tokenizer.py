"""tokenizer.json through the `tokenizers` library. Never reads a special token out of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from .detokenize import decode
from .tokenizer_files import (
    TokenizerFiles,
    TokenizerSettings,
    check_unicode,
    choose_bos,
    find_special,
    read_settings,
    write_files,
)

SPACE_PIECE = "▁"


class FastTokenizer:
    """A byte-level (GPT-2, LLaMA 3, Qwen2) or LLaMA-type tokenizer.json; ids as transformers' fast tokenizer's."""

    def __init__(self, files: TokenizerFiles):
        self._files = files
        self._spec = files.read_json(files.vocabulary)
        settings = read_settings(files)
        start, middle = _plain_text_specs(self._spec, _special_texts(self._spec, settings))
        self._start = _build(files, start)
        self._continue = self._start if middle == start else _build(files, middle)
        self._is_byte_level = _is_byte_level(files, self._spec)
        self._byte_of = _byte_alphabet() if self._is_byte_level else {}

        added = {token["content"]: token["id"] for token in self._spec.get("added_tokens") or ()} | settings.added
        self._added = {token_id: text for text, token_id in added.items()}
        own = {token["content"] for token in self._spec.get("added_tokens") or () if token.get("rstrip")}
        self._stripping = {added[text] for text in (own - settings.added.keys()) | settings.stripping}
        vocabulary = self._start.get_vocab()
        self.specials = added | {text: i for text in settings.specials if (i := vocabulary.get(text)) is not None}
        shown = {token["content"] for token in self._spec.get("added_tokens") or () if not token.get("special")}
        shown = (shown | settings.shown) - settings.specials
        self.hidden_ids = frozenset(i for text, i in self.specials.items() if text not in shown)
        self.vocab_size = max([*vocabulary.values(), *self._added]) + 1

        schemes = set(_prefix_schemes(self._spec))
        self.has_text_prefix = bool(schemes & {"always", "first"})
        self._has_prefix_after_special = "always" in schemes
        self.bos_id, self.eos_id = self.specials.get(settings.bos), self.specials.get(settings.eos)
        if self.eos_id is None:
            raise ValueError(f"tokenizer in {files.folder}: its eos_token {settings.eos!r} is not in the vocabulary")
        self.pad_id = self.specials.get(settings.pad, self.specials.get(settings.unk, self.eos_id))
        is_wanted = _starts_with(self._spec, settings.bos) if settings.add_bos is None else settings.add_bos
        self.add_bos = choose_bos(files, self.bos_id, is_wanted)

    def __reduce__(self):
        return FastTokenizer, (self._files,)

    def encode(self, text: str, *, is_start: bool) -> list[int]:
        """See Tokenizer."""
        if not text:
            return []
        check_unicode(text)
        return (self._start if is_start else self._continue).encode(text, add_special_tokens=False).ids

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
        piece = self._added.get(token_id)
        if piece is None and token_id >= 0:
            piece = self._start.id_to_token(token_id)
        if piece is None:
            last = self.vocab_size - 1
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self._files.folder} (0..{last})")
        return piece

    def token_bytes(self, token_id: int) -> bytes:
        """See Tokenizer."""
        piece = self.id_to_piece(token_id)
        if token_id in self._added:
            return piece.encode("utf-8")
        if self._is_byte_level:
            return (
                bytes(map(self._byte_of.__getitem__, piece)) if self._byte_of.keys() >= set(piece) else piece.encode()
            )
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_PIECE, " ").encode("utf-8")

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See Tokenizer."""
        return decode(self, ids, skip_special=skip_special)

    def save(self, folder: str | Path) -> None:
        """See Tokenizer."""
        write_files(self._files, folder)


def _build(files: TokenizerFiles, spec: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{files.vocabulary} in {files.folder} is no tokenizer file: {error}") from error


def _special_texts(spec: dict[str, Any], settings: TokenizerSettings) -> set[str]:
    """Return the texts that must never be read out of a text."""
    added = spec.get("added_tokens") or ()
    marks = {token["content"] for token in added if token.get("special") or token["content"].startswith("<|")}
    return marks | settings.specials


def _plain_text_specs(spec: dict[str, Any], specials: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the description of a tokenizer for text at the start of a stretch, and of one for text that goes on.

    Neither knows special tokens, nor joins letters into one. Other added tokens (runs of spaces, say) stay.
    """
    start = dict(spec, post_processor=None, truncation=None, padding=None)
    start["added_tokens"] = [token for token in spec.get("added_tokens") or () if token["content"] not in specials]
    model = dict(spec.get("model") or {})
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _merged(merge) not in specials]
    start["model"] = model
    return start, dict(
        start,
        normalizer=_without_prefix(spec.get("normalizer")),
        pre_tokenizer=_without_prefix(spec.get("pre_tokenizer")),
    )


def _merged(merge: str | list[str]) -> str:
    """Return the token that a merge makes; older files write the pair as one string with a space."""
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer that puts no space in front."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return dict(step, **{key: [part for child in step[key] if (part := _without_prefix(child))]})
    if step["type"] == "Metaspace":
        return {key: value for key, value in step.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    return dict(step, add_prefix_space=False) if step.get("add_prefix_space") else step


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield a step, or the steps of a sequence."""
    if step is None:
        return
    if step["type"] != "Sequence":
        yield step
        return
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for child in step.get(key, ()):
            yield from _steps(child)


def _prefix_schemes(spec: dict[str, Any]) -> Iterator[str]:
    """Yield where a space is put in front of a text and taken away by decoding: always, first or never."""
    for step in [*_steps(spec.get("normalizer")), *_steps(spec.get("pre_tokenizer"))]:
        if step["type"] == "Prepend":
            yield "always"
        elif step["type"] == "Metaspace":
            yield step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            yield "always"


def _starts_with(spec: dict[str, Any], bos: str | None) -> bool:
    """Return whether the file itself puts the BOS token in front."""
    for step in _steps(spec.get("post_processor")):
        first = (step.get("single") or [{}])[0]
        if step["type"] == "TemplateProcessing" and first.get("SpecialToken", {}).get("id") == bos:
            return bos is not None
    return False


def _is_byte_level(files: TokenizerFiles, spec: dict[str, Any]) -> bool:
    """Return whether pieces are spelled in the byte alphabet; raise ValueError for other kinds than we can decode."""
    kinds = {step["type"] for step in _steps(spec.get("decoder"))}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace"}:
        return False
    found = ", ".join(sorted(kinds)) or "none"
    where = f"{files.vocabulary} in {files.folder}"
    raise ValueError(f"{where} has the decoder {found}: expected a byte-level or a LLaMA-type tokenizer")


def _byte_alphabet() -> dict[str, int]:
    """Return the byte for each character of the byte-level alphabet (GPT-2, encoder.py: bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
