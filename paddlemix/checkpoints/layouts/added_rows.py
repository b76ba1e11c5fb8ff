"""Rows that llava-hf's writers added to a vocabulary behind the model's own, and how to remove them with their tokens.

They belong to `<image>`, `<pad>` and padding. All other layouts do without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...conversation.fast_spec import read_added
from ...conversation.sentencepiece_proto import read_facts
from ...conversation.tokenizer_files import ADDED_FILE, CONFIG_FILE, FAST_FILE, SPECIALS_FILE, TokenizerFiles
from ...conversation.tokenizer_settings import read_settings
from .hf_fast import FILLER

IMAGE, PAD = "<image>", "<pad>"


def num_rows_before(files: TokenizerFiles, start: int, image_id: int) -> int | None:
    """Return start if the tokenizer has nothing but `<image>` and `<pad>` from that id on, else None."""
    last = added_tokens_from(files, start)
    is_added = last.keys() <= {IMAGE, PAD} and last.get(IMAGE) == image_id
    return start if is_added and max(last.values()) < start + len(last) else None


def added_tokens_from(files: TokenizerFiles, start: int) -> dict[str, int]:
    """Return the tokens from an id on, text -> id, in the order of their ids."""
    found = {text: number for text, number in _vocabulary(files).items() if number >= start}
    found |= {text: token.token_id for text, token in read_settings(files).added.items() if token.token_id >= start}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _vocabulary(files: TokenizerFiles) -> dict[str, int]:
    """Return the tokens of the vocabulary file, text -> id."""
    if files.vocabulary != FAST_FILE:
        return {text: number for number, (text, _) in enumerate(read_facts(files.contents[files.vocabulary]).pieces)}
    spec = files.read_json(FAST_FILE)
    stated = spec["model"]["vocab"]
    found = dict(stated) if isinstance(stated, Mapping) else {one[0]: number for number, one in enumerate(stated)}
    return found | {text: token.token_id for text, token in read_added(spec, FAST_FILE).items()}


def without_tokens_from(files: TokenizerFiles, start: int) -> TokenizerFiles:
    """Return a tokenizer's files without the added tokens from an id on, and without fillers."""
    gone = {*added_tokens_from(files, start), *(FILLER.format(number) for number in range(start))}
    contents = dict(files.contents)
    for name, strip in ((CONFIG_FILE, _strip_config), (SPECIALS_FILE, _strip_roles), (ADDED_FILE, _strip_ids)):
        if name in contents:
            contents[name] = json.dumps(strip(files.read_json(name), gone), indent=2, ensure_ascii=False).encode()
    if files.vocabulary == FAST_FILE:
        spec = files.read_json(FAST_FILE)
        spec["added_tokens"] = [token for token in spec.get("added_tokens") or () if token["content"] not in gone]
        contents[FAST_FILE] = json.dumps(spec, ensure_ascii=False).encode()
    return TokenizerFiles(files.folder, files.vocabulary, contents)


def _strip_config(config: dict, gone: set[str]) -> dict:
    """Remove tokens, and the keys that only transformers' processor reads."""
    config = _strip_roles(config, gone)
    config["added_tokens_decoder"] = {
        number: token
        for number, token in (config.get("added_tokens_decoder") or {}).items()
        if _text(token) not in gone
    }
    for key in ("extra_special_tokens", "image_token", "processor_class"):
        config.pop(key, None)
    return config


def _strip_roles(values: dict, gone: set[str]) -> dict:
    """Remove the roles (pad_token, additional_special_tokens, ...) of the tokens."""
    values = {key: value for key, value in values.items() if not key.endswith("_token") or _text(value) not in gone}
    if isinstance(values.get("additional_special_tokens"), list):
        more = values["additional_special_tokens"]
        values["additional_special_tokens"] = [token for token in more if _text(token) not in gone]
    return values


def _strip_ids(added: dict, gone: set[str]) -> dict:
    return {text: number for text, number in added.items() if text not in gone}


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None
