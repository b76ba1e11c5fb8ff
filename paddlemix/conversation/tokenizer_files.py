"""The files of a tokenizer folder: which there are, what their settings say, writing them back. Encodes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_object import parse_object

PADDLE_FILE, SENTENCEPIECE_FILE, FAST_FILE = "sentencepiece.bpe.model", "tokenizer.model", "tokenizer.json"
VOCABULARIES = (PADDLE_FILE, SENTENCEPIECE_FILE, FAST_FILE)  # the first one that is there counts
CONFIG_FILE, SPECIALS_FILE, ADDED_FILE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SETTINGS = (CONFIG_FILE, SPECIALS_FILE, ADDED_FILE)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
BARE_CLASSES = ("Ernie4_5_Tokenizer", "Ernie4_5Tokenizer")  # with these, no BOS token comes in front if nothing says so


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as files: folder (for messages), name of the vocabulary file, contents by file name."""

    folder: str
    vocabulary: str
    contents: Mapping[str, bytes]

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, empty when the file is not there; raise ValueError when it is something else."""
        if name not in self.contents:
            return {}
        return parse_object(self.contents[name], ValueError, f"{name} in {self.folder}")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the settings files say, with the defaults of LlamaTokenizer.

    bos, eos, unk, pad: token texts or None. added: text to id of tokens beside the vocabulary. named: texts that
    have a role (bos, additional_special_tokens ...). specials: these and the added ones that are special. shown: added
    tokens that are marked as not special. stripping: added tokens that swallow the white space after them (Phi-3's
    marks). add_bos: None when nothing says so.
    """

    bos: str | None
    eos: str | None
    unk: str | None
    pad: str | None
    added: dict[str, int]
    named: frozenset[str]
    specials: frozenset[str]
    shown: frozenset[str]
    stripping: frozenset[str]
    add_bos: bool | None
    is_legacy: bool
    add_prefix_space: bool


def read_files(folder: str | Path) -> TokenizerFiles:
    """Return the tokenizer files of a folder; raise ValueError when it has no vocabulary."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"tokenizer folder not found: {os.path.abspath(folder)}")
    vocabulary = next((name for name in VOCABULARIES if (folder / name).is_file()), None)
    if vocabulary is None:
        raise ValueError(f"no tokenizer in {folder}: expected one of {', '.join(VOCABULARIES)}")
    names = [vocabulary, *(name for name in SETTINGS if (folder / name).is_file())]
    return TokenizerFiles(str(folder), vocabulary, {name: (folder / name).read_bytes() for name in names})


def write_files(files: TokenizerFiles, folder: str | Path) -> None:
    """Write the files into a folder, made if it is missing, each completely or not at all.

    Raises ValueError when files of another tokenizer are there that would be read along with these.
    """
    folder = Path(folder)
    rivals = [*VOCABULARIES[: VOCABULARIES.index(files.vocabulary)], *SETTINGS]
    found = [name for name in rivals if name not in files.contents and (folder / name).exists()]
    if found:
        raise ValueError(f"{folder} holds {', '.join(found)} of another tokenizer: remove it or take another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.contents.items():
        temporary = folder / f"{name}.{os.getpid()}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


def read_settings(files: TokenizerFiles) -> TokenizerSettings:
    """Return the settings; tokenizer_config.json goes before special_tokens_map.json and added_tokens.json."""
    config, special_map = files.read_json(CONFIG_FILE), files.read_json(SPECIALS_FILE)
    names = {}
    for key in ROLES:
        names[key] = _token_text(files, key, config[key] if key in config else special_map.get(key))
    extra = [*(config.get("additional_special_tokens") or ()), *(special_map.get("additional_special_tokens") or ())]
    named = {_token_text(files, "additional_special_tokens", token) for token in extra}
    named = frozenset(named.union(names.values()) - {None})
    added, shown, stripping = {}, set(), set()
    for text, token_id in files.read_json(ADDED_FILE).items():
        added[text] = _token_id(files, text, token_id)
    for token_id, token in (config.get("added_tokens_decoder") or {}).items():
        text = _token_text(files, "added_tokens_decoder", token)
        added[text] = _token_id(files, text, token_id)
        if isinstance(token, dict) and not token.get("special", False):
            shown.add(text)
        if isinstance(token, dict) and token.get("rstrip", False):
            stripping.add(text)
    specials = named.union(text for text in added if text not in shown)
    return TokenizerSettings(
        bos=names["bos_token"],
        eos=names["eos_token"],
        unk=names["unk_token"],
        pad=names["pad_token"],
        added=added,
        named=named,
        specials=specials,
        shown=frozenset(shown - specials),
        stripping=frozenset(stripping),
        add_bos=config.get("add_bos_token", False if config.get("tokenizer_class") in BARE_CLASSES else None),
        # PaddleMIX's tokenizer knows no `legacy` key and behaves like legacy = true whatever the file says.
        is_legacy=files.vocabulary == PADDLE_FILE or config.get("legacy") in (None, True),
        add_prefix_space=config.get("add_prefix_space") in (None, True),
    )


def choose_bos(files: TokenizerFiles, bos_id: int | None, add_bos: bool) -> bool:
    """Return add_bos; raise ValueError when it is wanted but the vocabulary has no such token."""
    if add_bos and bos_id is None:
        raise ValueError(f"{CONFIG_FILE} in {files.folder} wants a BOS token, but bos_token is not in the vocabulary")
    return add_bos


def find_special(specials: Mapping[str, int], text: str, folder: str) -> int:
    """Return the id of a special token; raise ValueError with all of them."""
    if text not in specials:
        known = ", ".join(sorted(specials, key=specials.get)) or "none"
        raise ValueError(
            f"the vocabulary of {folder} has no special token {text!r} (it has {known}): "
            "take the chat template that the checkpoint was trained with"
        )
    return specials[text]


def check_unicode(text: str) -> None:
    """Raise ValueError when a text holds half of a surrogate pair, which no tokenizer can read."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise ValueError(f"character {error.start} of the text, {bad!r}, is half of a surrogate pair") from None


def _token_text(files: TokenizerFiles, key: str, token: Any) -> str | None:
    """Return the text of a token that is written as a string or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    if text is None or isinstance(text, str):
        return text or None
    raise ValueError(f"{key} in {files.folder} is {token!r}: expected a string or an object with 'content'")


def _token_id(files: TokenizerFiles, text: str, token_id: Any) -> int:
    if not str(token_id).isdecimal():
        raise ValueError(f"added token {text!r} in {files.folder} has the id {token_id!r}: expected a number")
    return int(token_id)
