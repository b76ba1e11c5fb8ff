"""Malformed answers of servers, invalid addresses and impossible paths all raise ImageError."""

from __future__ import annotations

import socket
import threading
import tracemalloc
import urllib.parse

import pytest

from paddlemix.data.encode import find_image
from paddlemix.image.errors import ImageError, MissingImageError
from paddlemix.image.fetch import FetchLimits
from paddlemix.image.load import ESCAPED_PART, _parts, load_image, read_image_size

LIMITS = FetchLimits(connect_seconds=2, read_seconds=2, total_seconds=5, max_retries=0)
FOUND, MOVED = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 302 Moved\r\nContent-Length: 0\r\nLocation: "
ANSWERS = {
    "length of no number": f"{FOUND}Content-Length: ²\r\n\r\nabc",
    "length below zero": f"{FOUND}Content-Length: -5\r\n\r\nabc",
    "length of 5,000 digits": f"{FOUND}Content-Length: {'9' * 5000}\r\n\r\nabc",
    "two lengths": f"{FOUND}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "redirect to half an address": f"{MOVED}http://[::1\r\n\r\n",
    "redirect to a port too high": f"{MOVED}http://h:99999999/\r\n\r\n",
    "redirect to two dots": f"{MOVED}http://a..b/\r\n\r\n",
    "redirect to bytes": f"{MOVED}\xff\xfe\r\n\r\n",
    "redirect to a null byte": f"{MOVED}http://a\0b/\r\n\r\n",
    "redirect to a bracket": f"{MOVED}//[\r\n\r\n",
    "status of no number": "HTTP/1.1 ²²² OK\r\n\r\n",
    "reason that a terminal obeys": "HTTP/1.1 404 \x1b]0;PW\x07\r\nContent-Length: 0\r\n\r\n",
    "chunk of no size": f"{FOUND}Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "encoding of bytes": f"{FOUND}Content-Encoding: \xff\r\n\r\nabc",
    "301 headers": f"{FOUND}{''.join(f'X-{n}: 1{chr(13)}{chr(10)}' for n in range(301))}\r\nabc",
    "gzip that is none": f"{FOUND}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "deflate that is none": f"{FOUND}Content-Encoding: deflate\r\n\r\nabc",
    "brotli that is none": f"{FOUND}Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
    "encodings in each other": f"{FOUND}Content-Encoding: {', '.join(['gzip'] * 50)}\r\n\r\nabc",
    "unknown transfer": f"{FOUND}Transfer-Encoding: nonsense\r\n\r\nabc",
    "two transfers": f"{FOUND}Transfer-Encoding: chunked, chunked\r\nContent-Length: 3\r\n\r\nzz",
    "chunk below zero": f"{FOUND}Transfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    "chunk of 10^18": f"{FOUND}Transfer-Encoding: chunked\r\n\r\n{'f' * 16}\r\nabc",
    "header with a null byte": f"{FOUND}X: a\0b\r\nContent-Length: 3\r\n\r\nabc",
    "header without a colon": f"{FOUND}nonsense\r\n\r\nabc",
    "header of 70,000 letters": f"{FOUND}X: {'a' * 70_000}\r\n\r\nabc",
    "status of 70,000 letters": f"HTTP/1.1 200 {'O' * 70_000}\r\n\r\nabc",
    "version 9": "HTTP/9.9 200 OK\r\n\r\nabc",
    "another protocol": "SSH-2.0-OpenSSH_9.6\r\n",
    "redirect to a zone": f"{MOVED}http://[fe80::1%nolink]:9/\r\n\r\n",
    "redirect to a long name": f"{MOVED}http://{'a' * 70}.org/\r\n\r\n",
    "redirect to a name of no IDNA": f"{MOVED}http://xn--\xfc\xff/\r\n\r\n",
    "redirect to port 0": f"{MOVED}http://127.0.0.1:0/\r\n\r\n",
    "redirect to nothing": f"{MOVED}\r\n\r\n",
    "nothing": "",
}


@pytest.fixture
def answer():
    """Return a function that makes a server answer one request with a text, and returns the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(text: str) -> str:
            def run():
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(text.encode("latin-1"))

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/a.png"

        yield serve


@pytest.mark.parametrize("name", ANSWERS)
def test_malformed_answer_is_an_image_error_of_one_printable_line(name, answer, tmp_path):
    with pytest.raises(ImageError) as caught:
        load_image(answer(ANSWERS[name]), cache_folder=tmp_path, limits=LIMITS)
    assert str(caught.value).isprintable() and "/a.png" in str(caught.value)


def test_odd_headers_cause_no_warning(answer, tmp_path, caplog, capsys):
    with pytest.raises(ImageError):
        load_image(answer("HTTP/1.1 200 OK\r\nno colon \x9b31m\r\n\r\nabc"), cache_folder=tmp_path, limits=LIMITS)
    assert not caplog.records and not capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("REQUESTS_CA_BUNDLE", "/none"), ("PADDLEMIX_CACHE", "~nosuchuser/x")])
def test_wrong_setting_of_the_environment_is_an_image_error(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ImageError):
        load_image("https://127.0.0.1:1/a.png", limits=LIMITS)


@pytest.mark.parametrize(
    "url", ["http://\ud83d/a.png", "http://a\0b/", "http://a:b/c", "http://\x1b]0;x/", "http://%zz/"]
)
def test_impossible_address_is_an_image_error_of_one_printable_line(url, tmp_path):
    with pytest.raises(ImageError) as caught:
        load_image(url, cache_folder=tmp_path, limits=LIMITS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "path", ["~nosuchuser/x.png", "x" * 5000, "y" * 300 + ".png", "a\0b.png", "\ud83d.png", "a\x1bb"]
)
def test_impossible_path_is_an_image_error_of_one_printable_line(path, tmp_path):
    for kind, look in ((ImageError, load_image), (MissingImageError, lambda one: find_image(one, [str(tmp_path)]))):
        with pytest.raises(kind) as caught:
            look(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data:image/png,\ud83d", "surrogate"),
        ("data:;base64,²", "base64"),
        ("data:image/png," + "%41" * (4 << 20), "limit"),
        ("data:;base64," + "A" * (97 << 20), "limit"),
    ],
    ids=["surrogate", "base64", "escapes", "length"],
)
def test_data_uri_that_cannot_be_read_is_an_image_error_at_once(uri, words):
    with pytest.raises(ImageError, match=words):
        load_image(uri)


@pytest.mark.parametrize("text", ["%41", "a%42", "ab%43", "%", "%%4", "é%4x", "%e2%82%ac"])
def test_escapes_of_a_long_payload_are_those_of_urllib(text):
    payload = text * (3 * ESCAPED_PART // len(text))
    with pytest.raises(ImageError) as caught:
        load_image(f"data:,{payload}")
    assert f"it starts with {urllib.parse.unquote_to_bytes(payload)[:16]!r}" in str(caught.value)
    assert b"".join(map(urllib.parse.unquote_to_bytes, _parts(payload))) == urllib.parse.unquote_to_bytes(payload)


def test_escapes_take_no_more_memory_than_the_payload():
    tracemalloc.start()
    with pytest.raises(ImageError, match="has an unknown format"):
        load_image("data:," + "%" * (1 << 18))
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_size_of_a_pipe_is_refused_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image_size(str(tmp_path / "pipe.png"))
