"""`<image>` and `<pad>` as llava-hf adds them to a tokenizer, and how they are taken away again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...conversation.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from ...conversation.tokenizer_files import (
    ADDED_FILE,
    CONFIG_FILE,
    FAST_FILE,
    SENTENCEPIECE_FILE,
    SPECIALS_FILE,
    VOCABULARIES,
    TokenizerFiles,
)
from ...conversation.vocabulary_choice import read_files
from ..files import CheckpointError, read_json, write_json
from . import torch_tokenizer
from .hf_fast import fast_json

IMAGE, PAD = "<image>", "<pad>"
FILLER = "<paddlemix_unused_{}>"  # for rows of the model that the tokenizer has no token for


def write_tokenizer(tokenizer: Tokenizer, folder: Path, vocab_size: int, processor_class: str) -> None:
    """Write a tokenizer whose ids vocab_size and vocab_size + 1 are `<image>` and `<pad>`.

    Raises CheckpointError when it has more tokens than the model has rows, or has them already.
    """
    taken = sorted({IMAGE, PAD} & set(tokenizer.specials))
    if taken:
        raise CheckpointError(f"the tokenizer has {' and '.join(taken)} already, which layout hf adds by itself")
    torch_tokenizer.write_tokenizer(tokenizer, vocab_size, folder)
    added = {FILLER.format(number): number for number in range(tokenizer.vocab_size, vocab_size)}
    added |= {IMAGE: vocab_size, PAD: vocab_size + 1}
    config = _read(folder / CONFIG_FILE)
    if (folder / FAST_FILE).is_file():
        _add_to_fast(folder / FAST_FILE, added)
    else:
        _write_fast(tokenizer, folder, config, added)
    _add_to_settings(folder, config, added, processor_class)


def _write_fast(tokenizer: Tokenizer, folder: Path, config: dict, added: dict[str, int]) -> None:
    """Write a tokenizer.json beside the SentencePiece model, where one can be made."""
    if config.get("add_prefix_space") is False:
        return
    spec = fast_json(
        (folder / SENTENCEPIECE_FILE).read_bytes(),
        is_legacy=config.get("legacy") in (None, True),
        bos=tokenizer.id_to_piece(tokenizer.bos_id) if tokenizer.add_bos else None,
        added=tokenizer.specials | added,
    )
    if spec is not None:
        write_json(folder / FAST_FILE, spec)


def _add_to_settings(folder: Path, config: dict, added: dict[str, int], processor_class: str) -> None:
    """Name the new tokens in the settings files, for slow and fast tokenizers."""
    specials = _read(folder / SPECIALS_FILE)
    for key in ("bos_token", "eos_token", "unk_token"):
        if config.get(key):
            specials.setdefault(key, config[key])
    earlier = _read(folder / ADDED_FILE)
    listed = config.get("added_tokens_decoder") or {str(number): _token(text) for text, number in earlier.items()}
    config |= {
        "added_tokens_decoder": listed | {str(number): _token(text) for text, number in added.items()},
        "extra_special_tokens": {"image_token": IMAGE},
        "image_token": IMAGE,
        "pad_token": PAD,
        "padding_side": "left",
        "processor_class": processor_class,
    }
    if config.get("add_prefix_space"):  # the default; where it is stated, transformers ignores tokenizer.json
        del config["add_prefix_space"]
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / SPECIALS_FILE, specials | {"pad_token": PAD})
    write_json(folder / ADDED_FILE, earlier | added)


def own_vocab_size(folder: Path, raw: dict, recorded: int | None, num_rows: int) -> int | None:
    """Return how many of a folder's vocabulary rows are the model's own, None where that cannot be told.

    recorded: the number that our writer left in config.json. Otherwise rows from `<image>` on count as added if that
    token and `<pad>` are all that the tokenizer has there, as in llava-hf's folders.
    """
    image_id = raw.get("image_token_index", raw.get("image_token_id", 32000))
    if not isinstance(image_id, int) or not 0 < image_id < num_rows:
        return None
    if recorded == image_id:
        return recorded
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return None
    tokenizer = load_tokenizer(folder)
    last = {text for text, number in tokenizer.specials.items() if number >= image_id}
    is_added = last <= {IMAGE, PAD} and tokenizer.specials.get(IMAGE) == image_id
    return image_id if is_added and tokenizer.vocab_size <= image_id + len(last) else None


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


def _add_to_fast(path: Path, added: dict[str, int]) -> None:
    spec = read_json(path)
    tokens = [{"id": number, **_token(text)} for text, number in added.items()]
    spec["added_tokens"] = [*(spec.get("added_tokens") or ()), *tokens]
    write_json(path, spec)


def _token(text: str) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": text, **flags}


def _read(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}
