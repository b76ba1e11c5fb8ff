"""A JSON text of any length is read value by value, and gives what json.loads gives."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc

import pytest

from paddlemix.prepare import json_stream
from paddlemix.prepare.json_stream import JsonStream


def elements(text: str | bytes) -> list:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    stream = JsonStream(io.BytesIO(content), "x.json")
    found = list(stream.elements())
    stream.end()
    return found


def random_value(chance: random.Random, depth: int = 3):
    kind = chance.randrange(8 if depth else 6)
    if kind < 2:
        return "".join(chance.choice('ab"\\\n/é水😀\u2028\0') for _ in range(chance.randrange(12)))
    if kind < 6:
        return chance.choice([None, True, False, -1.5e-7, 12345678901234567890, 0, "", -3])
    if kind == 6:
        return [random_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {f"k{n}": random_value(chance, depth - 1) for n in range(chance.randrange(4))}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_list_in_blocks_of_any_size_is_what_json_loads_gives(monkeypatch, block, is_ascii):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    chance = random.Random(block)
    for indent in (None, 1):
        values = [random_value(chance) for _ in range(60)]
        text = json.dumps(values, ensure_ascii=is_ascii, indent=indent)
        assert elements(text) == json.loads(text) == values


@pytest.mark.parametrize(
    "text", ["[]", " [ ] \n", "[1]", "[12,34]", "[-0.5e3,true]", "\ufeff[1, 2]", '["\\ud83d\\ude00"]']
)
def test_short_lists(monkeypatch, text):
    monkeypatch.setattr(json_stream, "BLOCK", 1)
    assert elements(text) == json.loads(text.removeprefix("\ufeff"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file ends there"),
        ("[", "row 1: the file ends there: it was cut"),
        ("[1", "row 1: the file ends there"),
        ("[1,", "row 2: the file ends there: it was cut"),
        ('[{"a": "b', "row 1: the file ends there: it was cut"),
        ('[{"a": 1}, {"a": tr', "row 2"),
        ("[1,]", "row 2: not JSON"),
        ("[1 2]", "row 1: expected , or ], found '2'"),
        ("[1] x", "the end: text follows the end of the JSON value: 'x'"),
        ("[{'a': 1}]", "row 1: not JSON"),
        ('["a\nb"]', "row 1: not JSON: Invalid control character"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1" * 5000 + "]", "row 1: Exceeds the limit"),
        (b'["\xff"]', "the file is not UTF-8 near byte"),
        ("[1]".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (gzip.compress(b"[1]", mtime=0), "is compressed by gzip: unpack it first"),
    ],
)
def test_text_that_is_not_a_list_is_one_error_with_its_place(text, message):
    with pytest.raises(ValueError) as raised:
        elements(text)
    assert message in str(raised.value) and str(raised.value).startswith("x.json")


def test_damage_is_found_without_reading_the_rest_of_the_file():
    file = io.BytesIO(b'[{"a": 1}, {"a" 1}, ' + b'{"a": 1}, ' * 1_000_000)
    with pytest.raises(ValueError, match="row 2: not JSON"):
        list(JsonStream(file, "x").elements())
    assert file.tell() <= 2 * json_stream.BLOCK


def test_missing_quotation_mark_does_not_read_without_limit(monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_VALUE", 1 << 22)
    file = io.BytesIO(b'[{"a": "b}, ' + b"x" * (1 << 25))
    with pytest.raises(ValueError, match="row 1"):
        list(JsonStream(file, "x").elements())
    assert file.tell() <= 1 << 24


def test_members_of_an_object_are_read_one_by_one():
    stream = JsonStream(io.BytesIO(b'{"a": [1, 2], "b" : {"c": null}, "a": 3}'), "x")
    assert [(key, stream.value()) for key in stream.members()] == [("a", [1, 2]), ("b", {"c": None}), ("a", 3)]
    assert list(JsonStream(io.BytesIO(b"{}"), "x").members()) == []
    with pytest.raises(ValueError, match="expected a key"):
        list(JsonStream(io.BytesIO(b"{1: 2}"), "x").members())


class Endless(io.RawIOBase):
    """A JSON list of many rows that is made while it is read."""

    def __init__(self, num_rows: int):
        self.rest, self.row, self.count = b"[0", b', {"question": "What is it?", "answer": "0123456789"}', num_rows

    def read(self, size=-1):
        while len(self.rest) < size and self.count:
            self.rest += self.row * min(1000, self.count)
            self.count -= min(1000, self.count)
            self.rest += b"" if self.count else b"]"
        found, self.rest = self.rest[:size], self.rest[size:]
        return found


def test_memory_does_not_grow_with_the_list():
    peaks = []
    for num_rows in (50_000, 200_000):  # 2.6 and 10 MB
        tracemalloc.start()
        assert sum(1 for _ in JsonStream(Endless(num_rows), "x").elements()) == num_rows + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 < 12 << 20
