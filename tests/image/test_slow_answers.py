"""Servers that never finish an answer: an image has one time limit, whatever they do."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from dataclasses import replace

import pytest
from slow_server import drip, flood, running

from paddlemix.image.errors import ImageError
from paddlemix.image.fetch import FetchLimits
from paddlemix.image.load import load_image

SECONDS = 0.25
BOUND = 10  # seconds, for a busy machine; the servers go on for at least twice as long
LIMITS = FetchLimits(connect_seconds=5, read_seconds=5, total_seconds=SECONDS, retry_seconds=0.01)
FOUND = b"HTTP/1.1 200 OK\r\n"
CHUNKED = FOUND + b"Transfer-Encoding: chunked\r\n"
GZIPPED = FOUND + b"Content-Encoding: gzip\r\n"
# An empty stored block of deflate (RFC 1951, 3.2.4), not the last one.
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
ANSWERS = {
    "nothing": lambda: drip(b"", b""),
    "status line": lambda: drip(b"HTTP/1.1 200 ", b"O"),
    "header lines": lambda: drip(FOUND, b"X: 1\r\n"),
    "one header line": lambda: drip(FOUND + b"X: ", b"1"),
    "half a header": lambda: drip(FOUND + b"Content-Length: 5\r\nX", b""),
    "100 Continue": lambda: flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": lambda: drip(b"", b"HTTP/1.1 100 Continue\r\nLink: a\r\n\r\n"),
    "body": lambda: drip(FOUND + b"Content-Length: 1000\r\n\r\n", b"x"),
    "body of no length": lambda: drip(FOUND + b"\r\n", b"x"),
    "chunk extension": lambda: drip(CHUNKED + b"\r\n5;", b"a"),
    "chunk size": lambda: drip(CHUNKED + b"\r\n", b"0"),
    "small chunks": lambda: drip(CHUNKED + b"\r\n", b"1\r\nx\r\n"),
    "trailers": lambda: drip(CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"X: 1\r\n"),
    "empty blocks": lambda: drip(GZIPPED + b"\r\n" + gzip.compress(b"")[:10], EMPTY_BLOCK),
    "many empty blocks": lambda: flood(GZIPPED + b"\r\n" + gzip.compress(b"")[:10], EMPTY_BLOCK * 1000),
    "empty members": lambda: flood(GZIPPED + b"\r\n", gzip.compress(b"") * 100),
    "redirect headers": lambda: drip(b"HTTP/1.1 302 Moved\r\nLocation: /a.png\r\n", b"X: 1\r\n"),
    "error": lambda: drip(b"HTTP/1.1 500 Broken\r\n", b"X: 1\r\n"),
    "TLS record": lambda: drip(b"\x16\x03\x03\x40\x00", b"\0"),
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def check_is_left_in_time(url, tmp_path, limits=LIMITS):
    started = time.monotonic()
    with pytest.raises(ImageError) as caught:
        load_image(url, cache_folder=tmp_path, limits=limits)
    assert time.monotonic() - started < BOUND
    return str(caught.value)


@pytest.mark.parametrize("name", ANSWERS)
def test_endless_server_is_abandoned_at_the_limit(name, tmp_path):
    scheme = "https" if name == "TLS record" else "http"
    with running(ANSWERS[name]) as address:
        text = check_is_left_in_time(f"{scheme}://{address}/a.png", tmp_path)
    assert f"longer than the limit of {SECONDS} s" in text


def test_redirects_with_endless_bodies_are_not_read(tmp_path):
    answers = lambda: flood(b"HTTP/1.1 302 Moved\r\nLocation: /a.png\r\n\r\n", b"x" * 100_000)  # noqa: E731
    with running(answers) as address:
        text = check_is_left_in_time(f"http://{address}/a.png", tmp_path, replace(LIMITS, total_seconds=BOUND))
    assert "Exceeded 5 redirects" in text


def test_endless_proxy_is_abandoned_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    with running(lambda: drip(b"HTTP/1.1 200 OK\r\nX: ", b"1")) as address:
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://{address}")
            text = check_is_left_in_time(f"{scheme}://example.org/a.png", tmp_path)
            assert f"limit of {SECONDS} s" in text


def test_silent_name_server_is_abandoned_at_the_limit(tmp_path, monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: end.wait(2 * BOUND))
    assert f"limit of {SECONDS} s" in check_is_left_in_time("http://example.org/a.png", tmp_path)
    end.set()


def test_exchange_leaves_no_thread_behind(tmp_path):
    with running(ANSWERS["body"]) as address:
        check_is_left_in_time(f"http://{address}/a.png", tmp_path)
    for thread in threading.enumerate():
        if "(_watch)" in thread.name:
            thread.join(BOUND)
            assert not thread.is_alive()
