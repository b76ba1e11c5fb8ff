"""Tokenizer files for transformers 4 and 5, with the same ids in both.

Settings that depend on the tool that wrote a foreign folder (backend, is_local, classes of one version) are dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...conversation.added_tokens import AddedToken
from ...conversation.sentencepiece_proto import read_facts
from ...conversation.templates import ChatTemplate, get_template
from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import (
    ADDED_FILE,
    CONFIG_FILE,
    FAST_FILE,
    PADDLE_FILE,
    ROLES,
    SENTENCEPIECE_FILE,
    SPECIALS_FILE,
    VOCABULARIES,
)
from ...conversation.tokenizer_settings import read_settings
from ...conversation.vocabulary_choice import read_files
from ...models.config import LlavaConfig
from ...output import write_json
from ...tensor_files.stored import CheckpointError
from .hf_chat import chat_template
from .hf_fast import fast_json, settled_json, without_gaps

SLOW_CLASSES = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer")  # known to both versions
KEPT = ("add_eos_token", "add_prefix_space", "legacy", "clean_up_tokenization_spaces", "errors", "padding_side")
KEPT += ("model_max_length", "spaces_between_special_tokens", "truncation_side", "use_default_system_prompt")


def write_model_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    """Write the tokenizer of a model. See `write_tokenizer`."""
    template = get_template(config.template, has_image_marks=config.has_image_marks)
    write_tokenizer(tokenizer, config.language.vocab_size, folder, template)


def write_tokenizer(
    tokenizer: Tokenizer, vocab_size: int, folder: Path, template: ChatTemplate | None = None, *, is_final: bool = True
) -> None:
    """Write a tokenizer as transformers reads it.

    template: the chat format, for the settings. is_final: no tokens are added afterwards, so that a
    tokenizer.json can be written beside a SentencePiece model. Raises CheckpointError if it has more tokens than the
    model has rows.
    """
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model has only {vocab_size} rows"
        )
    tokenizer.save(folder)
    vocabulary = next(name for name in VOCABULARIES if (folder / name).is_file())
    files = read_files(folder)
    settings, stated = read_settings(files), files.read_json(CONFIG_FILE)
    values = {key: stated[key] for key in KEPT if stated.get(key) is not None}
    values |= _roles(tokenizer, stated, files.read_json(SPECIALS_FILE))
    named = settings.named - {values.get(key) for key in ROLES}
    values["additional_special_tokens"] = sorted(named & set(tokenizer.specials), key=tokenizer.specials.get)
    if vocabulary == PADDLE_FILE:  # its reader, PaddleMIX's, always is a legacy one
        (folder / PADDLE_FILE).rename(folder / SENTENCEPIECE_FILE)
        values["legacy"] = True
    if vocabulary == FAST_FILE:
        spec, added = settled_json(tokenizer, files.read_json(FAST_FILE), settings.added)
        write_json(folder / FAST_FILE, spec)
        values.pop("add_prefix_space", None)
        values |= _fast_class(spec)
    else:
        added = _raw_tokens(settings.added, len(read_facts(files.contents[vocabulary]).pieces))
        values["tokenizer_class"] = _slow_class(stated)
        if values.get("add_prefix_space"):  # the default; if it is stated, transformers ignores tokenizer.json
            del values["add_prefix_space"]
    values["add_bos_token"] = tokenizer.add_bos
    values["added_tokens_decoder"] = {str(token.token_id): flags(token) for token in added.values()}
    chat = None if template is None else chat_template(template)
    write_json(folder / CONFIG_FILE, values if chat is None else {**values, "chat_template": chat})
    write_json(folder / SPECIALS_FILE, {key: values[key] for key in ROLES if values.get(key)})
    write_json(folder / ADDED_FILE, {token.text: token.token_id for token in added.values()})
    if is_final:
        write_fast(tokenizer, folder)


def _raw_tokens(added: Mapping[str, AddedToken], num_pieces: int) -> dict[str, AddedToken]:
    """Return added tokens that are found in the raw text, as slow classes do. Only fast classes follow the flag."""
    return without_gaps(
        {text: dataclasses.replace(one, is_normalized=False) for text, one in added.items()}, num_pieces
    )


def write_fast(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer.json beside a SentencePiece model, if one can be made."""
    files = read_files(folder)
    if files.vocabulary == FAST_FILE:
        return
    settings = read_settings(files)
    spec = fast_json(
        files.contents[SENTENCEPIECE_FILE],
        is_legacy=settings.is_legacy,
        has_prefix=tokenizer.has_text_prefix,
        bos=tokenizer.id_to_piece(tokenizer.bos_id) if tokenizer.add_bos else None,
        added=settings.added,
        specials=tokenizer.specials,
    )
    if spec is not None:
        write_json(folder / FAST_FILE, spec)


def flags(token: AddedToken) -> dict[str, Any]:
    """Return a token in the form of added_tokens_decoder."""
    return {key: value for key, value in token.as_json().items() if key != "id"}


def _roles(tokenizer: Tokenizer, stated: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the tokens of the roles, including the roles that PaddleMIX does not write.

    A role without a token in the vocabulary is null: transformers would add the token of the file or of the class,
    after the model's last row.
    """
    roles = dict.fromkeys(ROLES)
    roles["eos_token"] = tokenizer.id_to_piece(tokenizer.eos_id)
    if tokenizer.bos_id is not None:
        roles["bos_token"] = tokenizer.id_to_piece(tokenizer.bos_id)
    if "<unk>" in tokenizer.specials:
        roles["unk_token"] = "<unk>"
    for key in ROLES:
        token = stated[key] if key in stated else special_map.get(key)
        text = token.get("content") if isinstance(token, Mapping) else token
        if text in tokenizer.specials:
            roles[key] = text
    return roles


def _fast_class(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class that reads tokenizer.json unchanged. Version 4 reads add_prefix_space from the settings."""
    has_space = (spec.get("pre_tokenizer") or {}).get("add_prefix_space")
    space = {"add_prefix_space": has_space} if isinstance(has_space, bool) else {}
    # Without the names, version 4 also makes token_type_ids, which no decoder here accepts.
    names = ["input_ids", "attention_mask"]
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, **space}


def _slow_class(stated: Mapping[str, Any]) -> str:
    name = str(stated.get("tokenizer_class") or "").removesuffix("Fast")
    return name if name in SLOW_CLASSES else SLOW_CLASSES[0]
