"""Small changes to a SentencePiece model file, made on its bytes.

The model is a protocol buffer. Reading it with generated classes would need a protobuf version that the training engine
excludes, and the little that changes here needs none: in the encoding, a later field overrides an earlier one.
Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
BPE = 2  # among the kinds of model
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model
_MODEL_TYPE = 3  # field of the trainer's settings
_PIECE_TEXT, _PIECE_TYPE = 1, 3  # fields of a piece
_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES = 3, 4  # fields of the normalizer
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ModelFacts:
    """pieces: (text, type) by id. add_dummy_prefix, remove_extra_spaces: what the normalizer does to a text.

    model_type: BPE or another kind of model (1 is unigram).
    """

    pieces: tuple[tuple[str, int], ...]
    add_dummy_prefix: bool
    remove_extra_spaces: bool
    model_type: int = 1


def read_facts(model: bytes) -> ModelFacts:
    """Return what the tokenizer must know of a model; raise ValueError when the bytes are no such model."""
    pieces, normalizer, model_type = [], {_ADD_DUMMY_PREFIX: 1, _REMOVE_EXTRA_SPACES: 1}, 1
    for field, value, _ in _fields(model):
        if field == _PIECES:
            piece = {number: content for number, content, _ in _fields(value)}
            pieces.append((piece[_PIECE_TEXT].decode("utf-8"), piece.get(_PIECE_TYPE, NORMAL)))
        elif field == _TRAINER:
            model_type = {number: content for number, content, _ in _fields(value)}.get(_MODEL_TYPE, model_type)
        elif field == _NORMALIZER:
            normalizer.update({number: content for number, content, _ in _fields(value)})
    if not pieces:
        raise ValueError("it holds no pieces")
    has_prefix, has_removal = (bool(normalizer[key]) for key in (_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES))
    return ModelFacts(tuple(pieces), has_prefix, has_removal, model_type)


def with_dummy_prefix(model: bytes, is_added: bool) -> bytes:
    """Return the model with add_dummy_prefix set."""
    return model + _field(_NORMALIZER, _varint(_ADD_DUMMY_PREFIX << 3 | _VARINT) + _varint(int(is_added)))


def with_control_pieces(model: bytes, ids: Iterable[int]) -> bytes:
    """Return the model with these pieces made control symbols: no text is ever encoded as one of them."""
    ids = set(ids)
    if not ids:
        return model
    parts, index = [], 0
    for field, value, raw in _fields(model):
        if field == _PIECES:
            is_changed = index in ids
            index += 1
            if is_changed:
                raw = _field(_PIECES, value + _varint(_PIECE_TYPE << 3 | _VARINT) + _varint(CONTROL))
        parts.append(raw)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Yield (field number, value, bytes of the whole field) of a message; raise ValueError where it breaks off."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _read_varint(message, position)
        elif kind in (_BYTES, _FIXED32, _FIXED64):
            length = {_FIXED32: 4, _FIXED64: 8}.get(kind)
            if length is None:
                length, position = _read_varint(message, position)
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(f"byte {start} starts no field")
        if position > len(message):
            raise ValueError(f"it breaks off at byte {len(message)}")
        yield key >> 3, value, message[start:position]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position behind it."""
    value, shift = 0, 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError(f"it breaks off at byte {position}")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
