"""A tokenizer.json that the `tokenizers` library numbers as the file says, with BOS where our tokenizer puts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...conversation.added_tokens import AddedToken
from ...conversation.fast_spec import read_added, starts_with
from ...conversation.tokenizer import Tokenizer

FILLER = "<paddlemix_unused_{}>"  # for rows of the model that the tokenizer has no token for


def settled_json(
    tokenizer: Tokenizer, spec: Mapping[str, Any], settings: Mapping[str, AddedToken]
) -> tuple[dict[str, Any], dict[str, AddedToken]]:
    """Return the content of a tokenizer.json and all its added tokens, those of the settings among them."""
    vocabulary = spec["model"]["vocab"]
    first = max(vocabulary.values(), default=-1) + 1 if isinstance(vocabulary, Mapping) else len(vocabulary)
    tokens = without_gaps({**read_added(spec, "tokenizer.json"), **settings}, first)
    spec = dict(spec, added_tokens=[token.as_json() for token in tokens.values()])
    bos = None if tokenizer.bos_id is None else tokenizer.id_to_piece(tokenizer.bos_id)
    if starts_with(spec, bos) != tokenizer.add_bos:
        spec["post_processor"] = bos_processor(bos, tokenizer.bos_id) if tokenizer.add_bos else None
    return spec, tokens


def without_gaps(tokens: Mapping[str, AddedToken], first: int) -> dict[str, AddedToken]:
    """Return added tokens in the order of their ids, with fillers for ids from `first` on that none has.

    The library numbers those that are not in the vocabulary in their order, from behind its last id on.
    """
    held = {token.token_id: token for token in tokens.values()}
    for number in range(first, max(held, default=0)):
        held.setdefault(number, AddedToken(FILLER.format(number), number, is_special=True))
    return {held[number].text: held[number] for number in sorted(held)}


def bos_processor(bos: str, number: int) -> dict[str, Any]:
    """Return what puts the BOS token in front of each text."""
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }
