"""tokenizer.json from a SentencePiece model of LLaMA's kind, so that fast tokenizers need no conversion when they load.

The description follows what transformers derives from such a model (convert_slow_tokenizer.py: LlamaConverter).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sentencepiece

from ...conversation.sentencepiece_proto import BPE, CONTROL, UNKNOWN, USER_DEFINED, read_facts

SPACE = "▁"


def fast_json(model: bytes, *, is_legacy: bool, bos: str | None, added: Mapping[str, int]) -> dict | None:
    """Return the content of tokenizer.json, None for a model that is no BPE with a space in front of texts.

    bos: token that starts an encoded text, if any. added: special tokens that are not in the model, by id.
    """
    facts = read_facts(model)
    if facts.model_type != BPE or not facts.add_dummy_prefix or facts.remove_extra_spaces:
        return None
    vocabulary = {text: number for number, (text, _) in enumerate(facts.pieces)}
    if len(vocabulary) < len(facts.pieces):
        return None
    unknown = next(text for text, kind in facts.pieces if kind == UNKNOWN)
    marks = {
        text: number for number, (text, kind) in enumerate(facts.pieces) if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    shown = {text for text, kind in facts.pieces if kind == USER_DEFINED}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _token(text, number, text not in shown)
            for text, number in sorted({**marks, **added}.items(), key=lambda item: item[1])
        ],
        "normalizer": _normalizer() if is_legacy else None,
        "pre_tokenizer": None if is_legacy else _pre_tokenizer(),
        "post_processor": None if bos is None else _post_processor(bos, {**vocabulary, **added}[bos]),
        "decoder": _decoder(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [f"{left} {right}" for left, right in _merges(model, vocabulary)],
        },
    }


def _merges(model: bytes, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield all pairs of pieces that make a piece, those of the likeliest piece first, then by the parts' ids."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    scores = {text: processor.get_score(number) for text, number in vocabulary.items()}
    for piece in sorted(vocabulary, key=lambda text: (-scores[text], vocabulary[text])):
        cuts = ((piece[:place], piece[place:]) for place in range(1, len(piece)))
        pairs = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        yield from sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _token(text: str, number: int, is_special: bool) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": is_special}
    return {"id": number, "content": text, **flags}


def _normalizer() -> dict:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}


def _pre_tokenizer() -> dict:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}


def _post_processor(bos: str, number: int) -> dict:
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def _decoder() -> dict:
    steps = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {"type": "Sequence", "decoders": steps}
