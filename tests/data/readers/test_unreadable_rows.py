"""Unreadable rows: each is one bad row, and nothing but a ValueError is ever raised."""

from __future__ import annotations

import json
import logging
import random

import pytest
from data_rows import read_rows

from paddlemix.data.bad_rows import refuse
from paddlemix.data.readers.files import read_row, scan_rows
from paddlemix.data.readers.json_rows import find_parts

GOOD = '{"conversations": [["Hi", "Yes."]]}'
HEAD = '{"id": 7, "conversations": [["Hi", "Yes."]], '
# The text of a row, and the kind that it is counted as.
ODD = {
    "half of a surrogate pair": ('{"conversations": [["a \\ud83d", "b"]]}', "wrong_row"),
    "5,000 digits": (f'{HEAD}"x": {"9" * 5000}}}', "not_json"),
    "30,000 lists": (f'{HEAD}"x": {"[" * 30_000}{"]" * 30_000}}}', "not_json"),
    "30,000 objects": (f"""{HEAD}"x": {'{"a":' * 30_000}1{"}" * 30_001}""", "not_json"),
    "NaN": (f'{HEAD}"x": [NaN]}}', "not_json"),
    "Infinity": (f'{HEAD}"x": -Infinity}}', "not_json"),
    "a key twice": (f'{HEAD}"conversations": []}}', "not_json"),
    "a key twice in a turn": ('{"conversations": [{"from": "human", "from": "gpt", "value": "a"}]}', "not_json"),
    "null byte in a path": (f'{HEAD}"image": "a\\u0000.png"}}', "wrong_row"),
    "half of a pair in a path": (f'{HEAD}"image": "\\udcff.png"}}', "wrong_row"),
    "half of a pair in a URL": (f'{HEAD}"image": "http://a/\\ud83d.png"}}', "wrong_row"),
    "path of 5,000 characters": (f'{HEAD}"image": "{"x" * 5000}"}}', "wrong_row"),
    "home folder of an unknown user": (f'{HEAD}"image": "~nosuchuser/x.png"}}', "wrong_row"),
    "URL without an end": (f'{HEAD}"image": "http://[::1"}}', "wrong_row"),
    "port of letters": (f'{HEAD}"image": ["http://a:b/c.png"]}}', "wrong_row"),
    "a number": ("5", "unknown_format"),
    "a list": ('["Hi", "Yes."]', "unknown_format"),
}


@pytest.fixture(params=["a.jsonl", "list.json", "data.json"])
def write_rows(request, tmp_path):
    """Return a function that writes rows, as JSON texts, to a file of each form."""

    def write(rows: list[str]):
        path = tmp_path / request.param
        text = "\n".join(rows) if request.param == "a.jsonl" else f"[{', '.join(rows)}]"
        path.write_text(f'{{"version": 1, "data": {text}}}' if request.param == "data.json" else text)
        return path

    return write


@pytest.mark.parametrize("name", ODD)
def test_odd_row_is_one_bad_row_among_good_ones(name, write_rows):
    text, kind = ODD[name]
    path = write_rows([GOOD, text, GOOD])
    rows, bad = scan_rows(path)
    assert [row.number for row in rows] == [1, 3]
    assert [(note.number, note.kind) for note in bad] == [(2, kind)]
    assert bad[0].reason.isprintable() and len(bad[0].reason) < 400
    with pytest.raises(ValueError, match=r"row 2.*on_bad_sample: skip"):
        refuse(bad)


@pytest.mark.parametrize(
    "line",
    [b"{broken", b'{"conversations": [["a", "\xff"]]}', b"\0\0\0", b"[1, 2", b"[]", b"\xed\xa0\xbd", b"nan", b'"'],
)
@pytest.mark.parametrize("place", [0, 1])
def test_one_bad_line_is_one_bad_row(line, place, tmp_path):
    lines = [GOOD.encode()] * 2
    lines.insert(place, line)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows, bad = scan_rows(tmp_path / "a.jsonl")
    assert len(rows) == 2 and [(note.line, note.number) for note in bad] == [(place + 1, place + 1)]


WHOLE = ['[{"a": "\\x"}]', "[1, 2", '{"x": NaN}', "[" * 30_000, '{"data": [], "data": []}']
WHOLE += [f'{{"data": [{GOOD}], "data": []}}', f'{{"a": NaN, "\\x": 1, "data": [{GOOD}]}}']


@pytest.mark.parametrize("content", WHOLE)
def test_file_that_cannot_be_read_as_a_whole_is_one_error_with_its_name(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json: not JSON") as caught:
        read_rows(tmp_path / "a.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_repeated_key_among_many_is_found_fast(tmp_path):
    pairs = ", ".join(f'"k{number}": 1' for number in range(40_000))
    (tmp_path / "a.jsonl").write_text(f'{GOOD}\n{{{pairs}, "k39999": 1}}')
    assert "'k39999' twice" in scan_rows(tmp_path / "a.jsonl")[1][0].reason


@pytest.mark.parametrize("text", ['[1, "a, ]\\"", {"b": [2, 3]}, []]', '{"a": [1, 2], "b}": "\\\\", "c": {}}', "[7]"])
def test_parts_equal_those_of_the_json_module(text):
    places, end = find_parts(text, 0)
    parts = [text[start:stop] for start, stop in places]
    value = json.loads(text)
    pairs = [f"{{{part}}}" for part in parts] if isinstance(value, dict) else parts
    expected = [{key: one} for key, one in value.items()] if isinstance(value, dict) else value
    assert [json.loads(part) for part in pairs] == expected and end == len(text)
    assert find_parts(text[:-1], 0) is None


def test_id_of_any_type_is_short_in_a_note(tmp_path):
    ids = ["x" * 5000, {"a": [1] * 5000}, [], None, 7, "seven"]
    (tmp_path / "a.json").write_text(json.dumps([{"id": one, "text": ""} for one in ids]))
    notes = scan_rows(tmp_path / "a.json")[1]
    assert all(len(str(note.id)) < 250 for note in notes) and [note.id for note in notes][3:] == [None, 7, "seven"]


ROWS = (
    {"id": 1, "image": ["a.png"], "conversations": [["<image>\nWhat?", "A."], ["Why?", "B."]]},
    {
        "system": "S",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes.", "loss": True}],
    },
    {
        "images": [{"bytes": None, "path": "a.png"}],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A", "weight": 1},
        ],
    },
    {"image": "a.png", "conversation": [{"system": "S", "input": "<image>a", "output": "A", "need_eos_token": True}]},
    {"system": "S", "query": "<image>b", "response": "B", "history": [["a", "A"]], "images": ["a.png"]},
    {"instruction": "a", "input": "b", "output": "B"},
)
VALUES = json.loads("""[null, true, 0, 0.5, -1, 1e400, "", "<image>", "\\ud83d", "a\\u0000", "~x/y", "http://[", "user",
    "tool", [], {}, [[]], [null], {"url": 1}, {"bytes": [1]}, [["a"]], [{"type": []}]]""")
VALUES.append(json.loads("[" * 800 + "]" * 800))
MARKS = (b'"', b"{", b"]", b",", b"\\", b"\xff", b"\0", b"9")
KEYS = "image images system loss weight video label from role value content messages conversations query history output"


def places(value, depth: int = 0):
    """Yield every list or object in a row with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(pairs) if depth < 8 else ():
        yield value, key
        yield from places(one, depth + 1)


def mutated(row: dict, draw: random.Random):
    """Return a copy in which values, keys and turns are replaced, removed or added."""
    row = json.loads(json.dumps(row))
    for _ in range(draw.randint(1, 3)):
        owner, key = draw.choice([*places(row)] or [({}, "")])
        value = draw.choice(VALUES) if draw.random() < 0.8 else draw.choice(ROWS)
        value = value if draw.random() < 0.9 else str(value)[:50]
        if draw.random() < 0.3:
            owner.pop(key, None) if isinstance(owner, dict) else owner.pop(key)
        elif isinstance(owner, dict):
            owner[draw.choice([key, draw.choice(KEYS.split())])] = value
        else:
            owner[key:key] = [value]
    return row


def test_mutated_rows_raise_only_value_errors_of_one_printable_line():
    draw, outcomes = random.Random(13), set()
    for _ in range(300):
        row = mutated(draw.choice(ROWS), draw)
        try:
            read_row(row)
            outcomes.add("good")
        except ValueError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
            outcomes.add(getattr(error, "kind", "wrong_row"))
    assert {"good", "wrong_row", "unknown_format", "unsupported_key", "wrong_role"} <= outcomes


def test_mutated_files_raise_only_value_errors_with_the_name_of_the_file(tmp_path):
    logging.disable(logging.WARNING)
    draw = random.Random(5)
    whole = "\n".join(map(json.dumps, ROWS)).encode()
    for number in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            start = draw.randrange(len(data))
            data[start : start + draw.choice([0, 1, 9])] = draw.choice(MARKS)
        path = tmp_path / ("a.jsonl" if number % 2 else "a.json")
        path.write_bytes(data)
        try:
            rows, bad = scan_rows(path)
            assert rows or bad
        except ValueError as error:
            assert path.name in str(error)
    logging.disable(logging.NOTSET)
