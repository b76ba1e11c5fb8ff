"""Answers of servers that cannot be read, addresses that are none, paths that no file can have: all are ImageErrors."""

from __future__ import annotations

import socket
import threading

import pytest

from paddlemix.data.locate import find_picture
from paddlemix.image.errors import ImageError, MissingImageError
from paddlemix.image.fetch import FetchLimits
from paddlemix.image.load import load_image
from paddlemix.image.size import picture_size

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
def test_path_that_no_file_can_have_is_an_image_error_of_one_printable_line(path, tmp_path):
    for kind, look in ((ImageError, load_image), (MissingImageError, lambda one: find_picture(one, [str(tmp_path)]))):
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


def test_size_of_a_pipe_is_refused_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        picture_size(str(tmp_path / "pipe.png"))
