"""Read a SentencePiece model file and make small changes to its bytes.

The model is a protocol buffer. Generated classes would need a protobuf version that the training engine excludes, and
the small changes need no classes: in the encoding, a later field overrides an earlier one.
Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = KINDS = (1, 2, 3, 4, 5, 6)
UNIGRAM, BPE = 1, 2  # kinds of model
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model
_MODEL_TYPE, _IS_SUFFIX = 3, 24  # fields of the trainer's settings
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3  # fields of a piece
_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES, _ESCAPES_SPACES = 3, 4, 5  # fields of the normalizer
_ZERO = b"\0\0\0\0"  # a float in little endian
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that the tokenizer needs.

    pieces: (text, type) by id. add_dummy_prefix, remove_extra_spaces: options of the normalizer. model_type: UNIGRAM or
    BPE.
    """

    pieces: tuple[tuple[str, int], ...]
    add_dummy_prefix: bool
    remove_extra_spaces: bool
    model_type: int = 1


def read_facts(model: bytes) -> ModelFacts:
    """Return the facts about a model; raise ValueError if the bytes are not a supported model."""
    pieces: list[tuple[str, int]] = []
    trainer = {_MODEL_TYPE: UNIGRAM, _IS_SUFFIX: 0}
    normalizer = {_ADD_DUMMY_PREFIX: 1, _REMOVE_EXTRA_SPACES: 1, _ESCAPES_SPACES: 1}
    for field, value, _ in _fields(model):
        if field in (_PIECES, _TRAINER, _NORMALIZER) and isinstance(value, int):
            raise ValueError(f"its field {field} is a number, expected a message")
        if field == _PIECES:
            pieces.append(_piece(value, len(pieces)))
        elif field == _TRAINER:
            trainer |= _numbers(value, trainer)
        elif field == _NORMALIZER:
            normalizer |= _numbers(value, normalizer)
    if not pieces:
        raise ValueError("it has no pieces")
    if trainer[_MODEL_TYPE] not in (UNIGRAM, BPE):
        raise ValueError(f"its model_type is {trainer[_MODEL_TYPE]}, expected {UNIGRAM} (unigram) or {BPE} (BPE)")
    if trainer[_IS_SUFFIX] or not normalizer[_ESCAPES_SPACES]:
        raise ValueError("it has treat_whitespace_as_suffix, or no escape_whitespaces, which is not supported")
    has_prefix, has_removal = (bool(normalizer[key]) for key in (_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES))
    return ModelFacts(tuple(pieces), has_prefix, has_removal, trainer[_MODEL_TYPE])


def _piece(message: bytes, index: int) -> tuple[str, int]:
    """Return text and type of a piece."""
    fields = {number: content for number, content, _ in _fields(message)}
    text, score, kind = fields.get(_PIECE_TEXT, b""), fields.get(_PIECE_SCORE, _ZERO), fields.get(_PIECE_TYPE, NORMAL)
    if type(text) is not bytes or type(score) is not bytes or len(score) != len(_ZERO) or kind not in KINDS:
        raise ValueError(f"piece {index} has fields of other types than a text, a score and a type")
    if score[3] & 0x7F == 0x7F and score[2] & 0x80:  # all bits of a float's exponent are set
        raise ValueError(f"piece {index} has a score that is not finite")
    return text.decode("utf-8"), kind


def _numbers(message: bytes, known: Mapping[int, int]) -> dict[int, int]:
    """Return the known fields of a message, which are numbers."""
    found = {number: content for number, content, _ in _fields(message) if number in known}
    wrong = next((number for number, content in found.items() if not isinstance(content, int)), None)
    if wrong is not None:
        raise ValueError(f"its setting {wrong} is not a number")
    return found


def with_dummy_prefix(model: bytes, is_added: bool) -> bytes:
    """Return the model with add_dummy_prefix set."""
    return model + _field(_NORMALIZER, _varint(_ADD_DUMMY_PREFIX << 3 | _VARINT) + _varint(int(is_added)))


def with_control_pieces(model: bytes, ids: Iterable[int]) -> bytes:
    """Return the model with these pieces as control symbols, to which no text is ever encoded."""
    ids = set(ids)
    if not ids:
        return model
    parts, index = [], -1
    for field, value, raw in _fields(model):
        index += field == _PIECES
        if field == _PIECES and index in ids:
            raw = _field(_PIECES, value + _varint(_PIECE_TYPE << 3 | _VARINT) + _varint(CONTROL))
        parts.append(raw)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Yield (field number, value, bytes of the whole field) of a message; raise ValueError if it is incomplete."""
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
            raise ValueError(f"byte {start} does not start a field")
        if position > len(message):
            raise ValueError(f"it ends too early, at byte {len(message)}")
        yield key >> 3, value, message[start:position]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it."""
    if position < len(message) and message[position] < 0x80:  # most have one byte
        return message[position], position + 1
    value, shift = 0, 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError(f"it ends too early, at byte {position}")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
