"""Images with odd names or in odd places: each is one bad row, skipped or reported."""

from __future__ import annotations

import functools
import os
import time
from types import SimpleNamespace

import pytest
from data_rows import read_mixture

from paddlemix.data.bad_rows import BadRowPolicy
from paddlemix.data.dataset import ConversationDataset, RowError
from paddlemix.data.encode import encode_turns
from paddlemix.data.measure import Measure

MISSING, UNREADABLE = "missing_image", "unreadable_image"
PLACES = {
    "folder": MISSING,
    "fifo.png": MISSING,
    "loop.png": MISSING,
    "file/a.png": MISSING,
    "zero.png": MISSING,
    ".": MISSING,
    "/": UNREADABLE,
    "/dev/zero": UNREADABLE,
    "/dev/stdin": UNREADABLE,
    "/proc/kmsg": UNREADABLE,  # by its mode a regular file, but reading it blocks forever
    "~": UNREADABLE,
    "x" * 300: MISSING,
    "a\x1b.png": MISSING,
    "empty.png": UNREADABLE,
    "cut.png": UNREADABLE,
    "file": UNREADABLE,
    "file:///etc/hosts": UNREADABLE,
    "http:///a.png": UNREADABLE,
    "http://a..b/x.png": UNREADABLE,
    "http://xn--a\u2024.\u0301/": UNREADABLE,
    "http://127.0.0.1:65535555/": None,  # refused when the file is read
    "http://[::1%25nolink]:9/": UNREADABLE,
    "http://[fe80::1%nolink]/": UNREADABLE,
    "http://" + "a" * 70 + "/": UNREADABLE,
    "data:": UNREADABLE,
    "data:,%zz": UNREADABLE,
    "data:;base64,AAA": UNREADABLE,
}


@pytest.fixture
def places(tmp_path, write, monkeypatch):
    """Make the odd places; return a function that reads a good row and a row with an image."""
    monkeypatch.chdir(tmp_path)
    without_pauses = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
    for name in ("data.dataset", "image.fetch"):
        monkeypatch.setattr(f"paddlemix.{name}.time", without_pauses)
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    os.symlink("loop.png", tmp_path / "loop.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "file").write_text("text")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")

    def read(image):
        rows = [{"conversations": [["Hi", "Hello."]]}, {"image": image, "conversations": [["What?", "A."]]}]
        return read_mixture({"data_files": str(write("data.json", rows))}, "train")

    return read


@pytest.mark.parametrize("image", PLACES, ids=lambda image: repr(image)[:30])
def test_odd_image_is_one_bad_row(image, places, tokenizer, template, spec):
    if PLACES[image] is None:
        with pytest.raises(ValueError, match=r"data\.json, row 2.*not a URL"):
            places(image)
        return
    rows = places(image)
    encode = functools.partial(encode_turns, tokenizer=tokenizer, template=template, spec=spec, max_length=200)
    note = ConversationDataset(rows, encode, policy=BadRowPolicy("skip"))[1].notes[0]
    assert (note.number, note.kind) == (2, PLACES[image])
    assert note.reason.isprintable() and len(note.reason) < 2000
    for is_thorough in (True, False):
        assert Measure(tokenizer, template, spec, 200, is_thorough).row(rows[1], {}).kind == note.kind
    with pytest.raises(RowError, match=r"data\.json, row 2: "):
        ConversationDataset(rows, encode, policy=BadRowPolicy("raise"))[1]
