"""tokenizer.json made from a SentencePiece model like LLaMA's, so that fast tokenizers load without a conversion.

The content is the same as transformers makes (convert_slow_tokenizer.py: LlamaConverter). This module also adjusts a
tokenizer.json so that the `tokenizers` library numbers tokens as the file says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sentencepiece

from ...conversation.added_tokens import AddedToken
from ...conversation.fast_spec import read_added, starts_with
from ...conversation.sentencepiece_proto import BPE, CONTROL, UNKNOWN, USER_DEFINED, ModelFacts, read_facts
from ...conversation.tokenizer import Tokenizer

SPACE = "▁"
PRE_TOKENIZER = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}


def fast_json(
    model: bytes,
    *,
    is_legacy: bool,
    has_prefix: bool,
    bos: str | None,
    added: Mapping[str, AddedToken],
    specials: Mapping[str, int],
) -> dict | None:
    """Return the content of tokenizer.json, None for a model that is not BPE or removes spaces.

    has_prefix: text gets a space in front, with is_legacy also after each token. bos: the token before a text, if any.
    added: tokens beside the model, without gaps, or instead of its pieces. specials: the ids of all special tokens,
    pieces of the model included.
    """
    facts = read_facts(model)
    if facts.model_type != BPE or facts.remove_extra_spaces:
        return None
    vocabulary = {text: number for number, (text, _) in enumerate(facts.pieces)}
    if len(vocabulary) < len(facts.pieces):
        return None
    tokens = _tokens(facts, added, specials)
    names = [tokens[number].text if number in tokens else text for number, (text, _) in enumerate(facts.pieces)]
    kept = set(names)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [tokens[number].as_json() for number in sorted(tokens)],
        "normalizer": _normalizer(has_prefix) if is_legacy or not has_prefix else None,
        "pre_tokenizer": None if is_legacy or not has_prefix else PRE_TOKENIZER,
        "post_processor": None if bos is None else bos_processor(bos, specials[bos]),
        "decoder": _decoder(has_prefix),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next(text for text, kind in facts.pieces if kind == UNKNOWN),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(names)},
            "merges": [
                f"{left} {right}" for left, right in _merges(model, vocabulary) if kept.issuperset((left, right))
            ],
        },
    }


def _tokens(facts: ModelFacts, added: Mapping[str, AddedToken], specials: Mapping[str, int]) -> dict[int, AddedToken]:
    """Return the added tokens of tokenizer.json by id: added ones, and the model's control and user-defined pieces."""
    pieces = [(text, number, kind) for number, (text, kind) in enumerate(facts.pieces)]
    named = [piece for piece in pieces if piece[2] in (UNKNOWN, CONTROL, USER_DEFINED)]
    marks = {text: AddedToken(text, number, is_special=kind != USER_DEFINED) for text, number, kind in named}
    marks |= {text: AddedToken(text, number, is_special=True) for text, number in specials.items()}
    tokens = {token.token_id: token for token in {**marks, **added}.values()}
    return tokens | {token.token_id: token for token in added.values()}  # instead of the piece with that id


def _merges(model: bytes, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield all pairs of pieces that form a piece, the pairs of the likeliest piece first, then by the parts' ids."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    scores = {text: processor.get_score(number) for text, number in vocabulary.items()}
    for piece in sorted(vocabulary, key=lambda text: (-scores[text], vocabulary[text])):
        cuts = ((piece[:place], piece[place:]) for place in range(1, len(piece)))
        pairs = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        yield from sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _normalizer(has_prefix: bool) -> dict:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]} if has_prefix else replace
    )


def _decoder(has_prefix: bool) -> dict:
    steps = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []
    return {"type": "Sequence", "decoders": steps}


FILLER = "<paddlemix_unused_{}>"  # for rows of the model without a token


def settled_json(
    tokenizer: Tokenizer, spec: Mapping[str, Any], settings: Mapping[str, AddedToken]
) -> tuple[dict[str, Any], dict[str, AddedToken]]:
    """Return the content of a tokenizer.json and all its added tokens, including those of the settings."""
    vocabulary = spec["model"]["vocab"]
    first = max(vocabulary.values(), default=-1) + 1 if isinstance(vocabulary, Mapping) else len(vocabulary)
    tokens = without_gaps({**read_added(spec, "tokenizer.json"), **settings}, first)
    spec = dict(spec, added_tokens=[token.as_json() for token in tokens.values()])
    bos = None if tokenizer.bos_id is None else tokenizer.id_to_piece(tokenizer.bos_id)
    if starts_with(spec, bos) != tokenizer.add_bos:
        spec["post_processor"] = bos_processor(bos, tokenizer.bos_id) if tokenizer.add_bos else None
    return spec, tokens


def without_gaps(tokens: Mapping[str, AddedToken], first: int) -> dict[str, AddedToken]:
    """Return added tokens in the order of their ids, with fillers for free ids from `first` on.

    The library numbers tokens outside the vocabulary in their order, after its last id.
    """
    by_id = {token.token_id: token for token in tokens.values()}
    for number in range(first, max(by_id, default=0)):
        by_id.setdefault(number, AddedToken(FILLER.format(number), number, is_special=True))
    return {by_id[number].text: by_id[number] for number in sorted(by_id)}


def bos_processor(bos: str, number: int) -> dict[str, Any]:
    """Return the post-processor that puts the BOS token before each text."""
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }
