"""`<image>` and `<pad>` as llava-hf adds them to a tokenizer, and how they are taken away again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...conversation.added_tokens import AddedToken
from ...conversation.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from ...conversation.tokenizer_files import (
    ADDED_FILE,
    CONFIG_FILE,
    FAST_FILE,
    SPECIALS_FILE,
    VOCABULARIES,
    TokenizerFiles,
)
from ...conversation.vocabulary_choice import read_files
from ...output import write_json
from ...tensor_files.stored import StoredTensor, read_json
from ...tensor_files.transforms import are_alike
from . import torch_tokenizer
from .settled_fast import FILLER

IMAGE, PAD = "<image>", "<pad>"
VOCABULARY_STEP = 64  # llava-hf pads the vocabulary to a multiple of this


@dataclass(frozen=True)
class Places:
    """Where a folder's `<image>` and `<pad>` stand, and how many rows its vocabulary has.

    added: those of the two that are new, text to id. num_own: how many rows are the model's own, for our reader.
    """

    image_id: int
    pad_id: int
    num_rows: int
    added: dict[str, int]
    num_own: int


def find_places(vocab_size: int, tokenizer: Tokenizer | None, num_own: int | None = None) -> Places:
    """Return where `<image>` and `<pad>` go: where the tokenizer has them, else behind the rows of the model.

    A `<pad>` that is missing beside an `<image>` takes the next row that no token has. num_own: of Places, None for all
    that there are.
    """
    known = {} if tokenizer is None else tokenizer.specials
    ids = {text: known[text] for text in (IMAGE, PAD) if text in known}
    free = tokenizer.vocab_size if IMAGE in ids else vocab_size
    added = {text: free + place for place, text in enumerate(text for text in (IMAGE, PAD) if text not in ids)}
    num_needed = max([vocab_size, *(number + 1 for number in added.values())])
    num_rows = vocab_size if num_needed == vocab_size else -(-num_needed // VOCABULARY_STEP) * VOCABULARY_STEP
    return Places((ids | added)[IMAGE], (ids | added)[PAD], num_rows, added, num_own or vocab_size)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, vocab_size: int, processor_class: str) -> None:
    """Write a tokenizer that has `<image>` and `<pad>`, its own where it has them.

    Raises CheckpointError when it has more tokens than the model has rows.
    """
    torch_tokenizer.write_tokenizer(tokenizer, vocab_size, folder, is_final=False)
    places = find_places(vocab_size, tokenizer)
    new = [AddedToken(text, number, is_special=True) for text, number in places.added.items()]
    last = min(places.added.values(), default=0)
    new += [AddedToken(FILLER.format(n), n, is_special=True) for n in range(tokenizer.vocab_size, last)]
    new.sort(key=lambda token: token.token_id)
    if (folder / FAST_FILE).is_file():
        _add_to_fast(folder / FAST_FILE, new)
    _add_to_settings(folder, new, processor_class)
    torch_tokenizer.write_fast(tokenizer, folder)


def _add_to_settings(folder: Path, new: list[AddedToken], processor_class: str) -> None:
    """Name the new tokens in the settings files, for slow and fast tokenizers."""
    config, specials, ids = (read_json(folder / name) for name in (CONFIG_FILE, SPECIALS_FILE, ADDED_FILE))
    config["added_tokens_decoder"] |= {str(token.token_id): torch_tokenizer.flags(token) for token in new}
    config |= {
        "extra_special_tokens": {"image_token": IMAGE},
        "image_token": IMAGE,
        "pad_token": PAD,
        "padding_side": "left",
        "processor_class": processor_class,
    }
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / SPECIALS_FILE, specials | {"pad_token": PAD})
    write_json(folder / ADDED_FILE, ids | {token.text: token.token_id for token in new})


def own_vocab_size(folder: Path, raw: dict, recorded: int | None, rows: StoredTensor) -> int | None:
    """Return how many of a folder's vocabulary rows are the model's own, None where that cannot be told.

    rows: the embeddings. The others start where our writer noted it (recorded), else at `<image>`, and they count as
    added if the tokenizer has nothing but that token and `<pad>` there, as in llava-hf's folders. Without a tokenizer,
    they do where our writer noted it and they are one and the same, as it writes them.
    """
    image_id = raw.get("image_token_index", raw.get("image_token_id", 32000))
    start = image_id if recorded is None else recorded
    if type(image_id) is not int or type(start) is not int or not 0 < image_id <= start < rows.shape[0]:
        return None
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return start if recorded is not None and are_alike(rows, start) else None
    tokenizer = load_tokenizer(folder)
    last = {text for text, number in tokenizer.specials.items() if number >= start}
    is_added = last <= {IMAGE, PAD} and tokenizer.specials.get(IMAGE) == image_id
    return start if is_added and tokenizer.vocab_size <= start + len(last) else None


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Read a folder's tokenizer without the tokens from id vocab_size on, and without fillers."""
    files = read_files(folder)
    gone = {text for text, number in load_tokenizer(folder).specials.items() if number >= vocab_size}
    gone |= {FILLER.format(number) for number in range(vocab_size)}
    contents = dict(files.contents)
    for name, strip in ((CONFIG_FILE, _strip_config), (SPECIALS_FILE, _strip_roles), (ADDED_FILE, _strip_ids)):
        if name in contents:
            contents[name] = json.dumps(strip(files.read_json(name), gone), indent=2, ensure_ascii=False).encode()
    if files.vocabulary == FAST_FILE:
        spec = files.read_json(FAST_FILE)
        spec["added_tokens"] = [token for token in spec.get("added_tokens") or () if token["content"] not in gone]
        contents[FAST_FILE] = json.dumps(spec, ensure_ascii=False).encode()
    return make_tokenizer(TokenizerFiles(files.folder, files.vocabulary, contents))


def _strip_config(config: dict, gone: set[str]) -> dict:
    """Take away tokens and what only transformers' processor reads."""
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
    """Take away the roles (pad_token, additional_special_tokens, ...) of tokens that go."""
    values = {key: value for key, value in values.items() if not key.endswith("_token") or _text(value) not in gone}
    if isinstance(values.get("additional_special_tokens"), list):
        values["additional_special_tokens"] = _kept(values["additional_special_tokens"], gone)
    return values


def _strip_ids(added: dict, gone: set[str]) -> dict:
    return {text: number for text, number in added.items() if text not in gone}


def _kept(tokens: Iterable, gone: set[str]) -> list:
    return [token for token in tokens if _text(token) not in gone]


def _text(token) -> str | None:
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _add_to_fast(path: Path, new: list[AddedToken]) -> None:
    spec = read_json(path)
    spec["added_tokens"] += [token.as_json() for token in new]
    write_json(path, spec)
