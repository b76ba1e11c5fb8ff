"""Images from URLs, against a small server on this machine that misbehaves on demand."""

import contextlib
import io
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from paddlemix.image.errors import ImageError
from paddlemix.image.fetch import FetchLimits, cache_path
from paddlemix.image.load import load_image

LIMITS = FetchLimits(connect_seconds=15, read_seconds=15, total_seconds=30, retry_seconds=0.01)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (10, 20, 30)).save(buffer, format="PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answer by the first part of the path; `server.seen` lists the requested paths."""

    def do_GET(self):
        self.server.seen.append(self.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, "answer_" + self.path.split("/")[1])(self.server.seen.count(self.path))

    def log_message(self, *arguments):
        """Log nothing."""

    def reply(self, status=200, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def answer_ok(self, attempt):
        self.reply(body=png())

    def answer_missing(self, attempt):
        self.reply(status=404)

    def answer_flaky(self, attempt):
        self.reply(body=png()) if attempt > 1 else self.reply(status=500)

    def answer_down(self, attempt):
        self.reply(status=503)

    def answer_short(self, attempt):
        body = png()
        self.reply(body=body if attempt > 2 else body[:20], length=len(body))

    def answer_always_short(self, attempt):
        self.reply(body=png()[:20], length=len(png()))

    def answer_reset(self, attempt):
        if attempt > 1:
            self.reply(body=png())
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer_large(self, attempt):
        self.reply(body=b"x" * 5000)

    def answer_endless(self, attempt):
        self.reply(length="none")
        for _ in range(1000):
            self.wfile.write(b"x" * 1000)

    def answer_silent(self, attempt):
        time.sleep(20)

    def answer_trickle(self, attempt):
        self.reply(length=1000)
        for _ in range(400):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def answer_moved(self, attempt):
        self.reply(status=302, Location="/ok/target.png")

    def answer_elsewhere(self, attempt):
        self.reply(status=302, Location="file:///etc/hosts")

    def answer_loop(self, attempt):
        self.reply(status=302, Location=self.path)

    def answer_page(self, attempt):
        self.reply(body=b"<html>sign in</html>")


@pytest.fixture(scope="module")
def running_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running_server, monkeypatch, tmp_path):
    """Return the server with an empty record; `server.load(path)` reads an image from it through a fresh cache."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running_server.seen = []
    running_server.cache = tmp_path / "cache"
    running_server.url = f"http://127.0.0.1:{running_server.server_port}"

    def load(path, limits=LIMITS):
        return load_image(running_server.url + path, cache_folder=running_server.cache, limits=limits)

    running_server.load = load
    return running_server


def test_url_is_requested_once_and_then_read_from_the_cache(server):
    first, second = server.load("/ok/a.png"), server.load("/ok/a.png")

    assert first.size == (5, 4) and first.tobytes() == second.tobytes()
    assert server.seen == ["/ok/a.png"]
    assert cache_path(server.url + "/ok/a.png", server.cache).read_bytes() == png()
    assert not list(server.cache.rglob("*.tmp"))


def test_urls_that_differ_do_not_share_a_cache_entry(server):
    server.load("/ok/a.png?size=1")
    server.load("/ok/a.png?size=2")

    assert len(server.seen) == 2


def test_cache_folder_comes_from_the_environment(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "mine"))

    load_image(server.url + "/ok/a.png", limits=LIMITS)

    assert cache_path(server.url + "/ok/a.png").is_relative_to(tmp_path / "mine" / "images")
    assert cache_path(server.url + "/ok/a.png").is_file()
    monkeypatch.delenv("PADDLEMIX_CACHE")
    assert ".cache/paddlemix/images" in cache_path("http://x").as_posix()


def test_missing_page_is_requested_once(server):
    with pytest.raises(ImageError, match=r"/missing/a.png: HTTP status 404"):
        server.load("/missing/a.png")
    assert len(server.seen) == 1


@pytest.mark.parametrize(("path", "attempts"), [("/flaky/a.png", 2), ("/short/a.png", 3), ("/reset/a.png", 2)])
def test_passing_failures_are_retried(server, path, attempts):
    assert server.load(path).size == (5, 4)
    assert len(server.seen) == attempts


@pytest.mark.parametrize(("path", "message"), [("/down/a.png", "HTTP status 503"), ("/always_short/a.png", "20")])
def test_lasting_failures_are_reported_after_three_attempts(server, path, message):
    with pytest.raises(ImageError, match=rf"{path}: .*{message}.*gave up after 3 attempts"):
        server.load(path)
    assert len(server.seen) == 3
    assert not server.cache.exists()


def test_refused_connection_is_reported(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.png"

        with pytest.raises(ImageError, match="gave up after 3 attempts"):
            load_image(url, cache_folder=tmp_path, limits=LIMITS)


@pytest.mark.parametrize("path", ["/large/a.png", "/endless/a.png"])
def test_body_over_the_limit_is_refused(server, path):
    with pytest.raises(ImageError, match="larger than the limit of 2000 bytes"):
        server.load(path, replace(LIMITS, max_bytes=2000))
    assert len(server.seen) == 1


def test_body_of_exactly_the_limit_is_read(server):
    assert server.load("/ok/a.png", replace(LIMITS, max_bytes=len(png()))).size == (5, 4)


@pytest.mark.parametrize("path", ["/silent/a.png", "/trickle/a.png"])
def test_slow_server_is_abandoned_at_the_total_time_limit(server, path):
    started = time.monotonic()

    with pytest.raises(ImageError, match=r"longer than the limit of 0.3 s"):
        server.load(path, replace(LIMITS, total_seconds=0.3))
    assert time.monotonic() - started < 10  # the server goes on for 20


def test_silent_server_is_retried_after_the_read_time(server):
    with pytest.raises(ImageError, match="gave up after 2 attempts"):
        server.load("/silent/a.png", replace(LIMITS, read_seconds=0.1, max_retries=1))


def test_redirect_is_followed(server):
    assert server.load("/moved/a.png").size == (5, 4)
    assert server.seen == ["/moved/a.png", "/ok/target.png"]


@pytest.mark.parametrize("path", ["/elsewhere/a.png", "/loop/a.png"])
def test_redirect_to_a_file_or_in_circles_is_refused(server, path):
    with pytest.raises(ImageError, match=f"cannot download .*{path}"):
        server.load(path)
    assert not server.cache.exists()


def test_page_that_is_not_an_image_is_not_kept(server):
    with pytest.raises(ImageError, match="has an unknown format"):
        server.load("/page/a.png")
    assert not server.cache.exists()


def test_damaged_cache_entry_is_named(server):
    path = cache_path(server.url + "/ok/a.png", server.cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rubbish")

    with pytest.raises(ImageError, match=rf"/ok/a.png' is cached, but .*{path.name}.*delete that file"):
        server.load("/ok/a.png")
    assert server.seen == []


def test_cache_folder_that_cannot_be_made_is_reported(server, tmp_path):
    server.cache = tmp_path / "file"
    server.cache.touch()

    with pytest.raises(ImageError, match="set PADDLEMIX_CACHE"):
        server.load("/ok/a.png")


@pytest.mark.parametrize("url", ["http://", "http://[::1", "https://a b/c.png", "http://.x/"])
def test_impossible_addresses_give_an_image_error(url, tmp_path):
    with pytest.raises(ImageError, match="cannot download"):
        load_image(url, cache_folder=tmp_path, limits=replace(LIMITS, max_retries=0))
