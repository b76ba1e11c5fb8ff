"""The reader of JSON objects is strict and raises the caller's error."""

from __future__ import annotations

import os

import pytest

from paddlemix.json_object import parse_object, read_object


class OwnError(ValueError):
    """In place of a room's error class."""


def test_object_is_read_with_or_without_a_byte_order_mark(tmp_path):
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "x.json").write_bytes(start + '{"a": {"b": [1, "ü"]}, "c": {"b": 2}}'.encode())
        assert read_object(tmp_path / "x.json", OwnError) == {"a": {"b": [1, "ü"]}, "c": {"b": 2}}


BROKEN = {
    "syntax": (b'{"a": 1,\n "b"}', "the text is not valid JSON: .*line 2 column 5"),
    "empty": (b"", "is not valid JSON"),
    "list": (b"[1]", "the text holds a JSON list, expected an object"),
    "null": (b"null", "holds a JSON NoneType, expected an object"),
    "utf-8": (b'{"a": "\xff"}', "is not valid JSON: .*codec can't decode"),
    "deep": (b'{"a":' * 100_000, "is not valid JSON: maximum recursion"),
    "digits": (b'{"a": ' + b"1" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
    "twice": (b'{"a": 1, "b": 2, "a": 1}', "is not valid JSON: one object has the key 'a' twice"),
    "twice-below": (b'{"a": [{"b": 1, "b": 1}]}', "one object has the key 'b' twice"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_anything_else_raises_the_callers_error(content, message):
    with pytest.raises(OwnError, match=message):
        parse_object(content, OwnError, "the text")


def test_error_names_the_path_or_the_name_that_the_caller_gives(tmp_path):
    path = tmp_path / "absent.json"
    with pytest.raises(OwnError, match=rf"^{path} does not exist$"):
        read_object(path, OwnError)
    with pytest.raises(OwnError, match=r"^the settings does not exist$"):
        read_object(path, OwnError, "the settings")


def test_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    for path in (tmp_path / "config.json", "/dev/zero"):
        with pytest.raises(ValueError, match="is a pipe or a device, expected a file"):
            read_object(path, ValueError)
