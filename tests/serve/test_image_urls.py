"""Images by URL come from allowed hosts and public addresses only, whatever the spelling, the names or redirects."""

from __future__ import annotations

import asyncio
import io
import shutil
import ssl
import subprocess
import time
from ipaddress import ip_address

import image_server
import pytest
from PIL import Image
from slow_server import drip, flood, running

from paddlemix.serve.errors import ApiError
from paddlemix.serve.images import checked_pool, image_urls
from paddlemix.serve.images.image_urls import FetchLimits, ImageFetcher, resolve

LOOPBACK = "127.0.0.0/8"


@pytest.fixture
def server():
    with image_server.ImageServer().running() as server:
        yield server


def to_loopback(host: str, port: int) -> list[str]:
    """Resolve numbers as the system does, and every name to this machine."""
    try:
        return resolve(host, port) if any(character.isdigit() for character in host) else ["127.0.0.1"]
    except OSError:
        return ["127.0.0.1"]


def fetch(url: str, rules: list[str], resolver=to_loopback, limits: FetchLimits | None = None) -> bytes:
    fetcher = ImageFetcher(rules, limits, resolver)
    try:
        return asyncio.run(fetcher.fetch(url))
    finally:
        fetcher.close()


def refusal(url: str, rules: list[str], resolver=to_loopback, limits: FetchLimits | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetch(url, rules, resolver, limits)
    return caught.value


# With %d for the port of a server on this machine, which all of them are meant to reach.
FORMS = [
    "http://127.0.0.1:%d/", "http://127.1:%d/", "http://127.0.1:%d/", "http://127.000.000.001:%d/",
    "http://2130706433:%d/", "http://0x7f000001:%d/", "http://0x7f.0.0.1:%d/", "http://0X7F.1:%d/",
    "http://0x7f.0x0.0x0.0x1:%d/", "http://017700000001:%d/", "http://0177.0.0.1:%d/", "http://0177.1:%d/",
    "http://00000177.0.0.1:%d/", "http://127.0.0.1.:%d/", "http://127.0.0.2:%d/", "http://127.255.255.254:%d/",
    "http://0:%d/", "http://0.0:%d/", "http://0.0.0.0:%d/", "http://00.00.00.00:%d/", "http://0x0:%d/",
    "http://localhost:%d/", "http://LOCALHOST:%d/", "http://localhost.:%d/", "http://localhost.localdomain:%d/",
    "http://a.localhost:%d/", "http://ip6-localhost:%d/", "http://images.evil.test:%d/", "http://xn--n3h.test:%d/",
    "http://[::1]:%d/", "http://[0:0:0:0:0:0:0:1]:%d/", "http://[0000::0001]:%d/", "http://[::]:%d/",
    "http://[::ffff:127.0.0.1]:%d/", "http://[::ffff:7f00:1]:%d/", "http://[0:0:0:0:0:ffff:7f00:1]:%d/",
    "http://[::FFFF:127.0.0.1]:%d/", "http://[::127.0.0.1]:%d/", "http://[::7f00:1]:%d/", "http://[::ffff:0:7f00:1]:%d/",
    "http://[64:ff9b::127.0.0.1]:%d/", "http://[64:ff9b:1::7f00:1]:%d/", "http://[2002:7f00:1::]:%d/",
    "http://[2001:0:7f00:1::]:%d/", "http://[fe80::1%%25lo]:%d/", "http://[fe80::1%%lo]:%d/", "http://[::1%%lo]:%d/",
    "http://[::1]x:%d/", "http://[::1", "http://::1:%d/", "http://1:1:1:%d/",
    "http://１２７.0.0.1:%d/", "http://①②⑦.⓪.⓪.①:%d/", "http://127。0。0。1:%d/", "http://127．0．0．1:%d/",
    "http://ｌｏｃａｌｈｏｓｔ:%d/", "http://locaⅼhost:%d/", "http://loca\u212alhost:%d/", "http://local\u00adhost:%d/",
    "http://%%31%%32%%37.0.0.1:%d/", "http://127%%2e0%%2e0%%2e1:%d/", "http://%%6c%%6f%%63alhost:%d/",
    "http://example.com@127.0.0.1:%d/", "http://127.0.0.1:%d@example.com/", "http://example.com:80@127.0.0.1:%d/",
    "http://@127.0.0.1:%d/", "http://:@127.0.0.1:%d/", "http://a:b@localhost:%d/", "http://example.com%%40127.0.0.1:%d/",
    "http://127.0.0.1:%d\\@example.com/", "http://example.com\\@127.0.0.1:%d/", "http:\\\\127.0.0.1:%d/",
    "http:/\\127.0.0.1:%d/", "http:127.0.0.1:%d/", "http:/127.0.0.1:%d/", "http:///127.0.0.1:%d/", "//127.0.0.1:%d/",
    "\thttp://127.0.0.1:%d/", "ht\ntp://127.0.0.1:%d/", "http://127.0.\n0.1:%d/", "http://127.0.0.1:%d/\r\nX: y",
    "http://127.0.0.1:%d /", "http://127.0.0.1\x00.example.com:%d/", "http://127.0.0.1\t:%d/", " http://localhost:%d/",
    "http://127.0.0.1#.example.com:%d/", "http://127.0.0.1?.example.com:%d/", "http://127.0.0.1;.example.com:%d/",
    "http://127.0.0.1,example.com:%d/", "http://127.0.0.1:0%d/", "http://127.0.0.1:+%d/", "http://127.0.0.1:%d:80/",
    "http://127.0.0.1:１:%d/", "http://:%d/", "http://.:%d/", "http://..localhost:%d/", "http://*:%d/",
    "file:///etc/passwd#%d", "ftp://127.0.0.1:%d/", "gopher://127.0.0.1:%d/_GET", "HTTP://127.0.0.1:%d/",
    "http\u017f://127.0.0.1:%d/", "httpſ://127.0.0.1:%d/", "unix:///run/docker.sock#%d", "url:http://127.0.0.1:%d/",
    "http://169.254.169.254/latest/meta-data/#%d", "http://metadata.google.internal/#%d", "http://100.100.100.200/#%d",
    "http://10.0.0.1:%d/", "http://192.168.0.1:%d/", "http://172.16.0.1:%d/", "http://[fd00:ec2::254]/#%d",
]  # fmt: skip


def test_no_spelling_of_this_machine_is_connected_to(server):
    assert len(FORMS) >= 60
    rules = ["*", f"*:{server.port}"]  # so that only the addresses and the spelling can be at fault
    fetcher = ImageFetcher(rules, FetchLimits(total_seconds=5), to_loopback)
    for form in FORMS:
        url = form % server.port if "%" in form else form
        with pytest.raises(ApiError) as caught:
            asyncio.run(fetcher.fetch(url))
        assert (caught.value.status, caught.value.code) == (400, "image_url_refused"), url
    assert server.connections == 0
    fetcher.close()


def test_the_server_of_the_test_would_have_been_reached(server):
    assert fetch(f"http://images.test:{server.port}/ok", [f"images.test:{server.port}={LOOPBACK}"]) == image_server.BODY
    assert fetch(f"http://127.0.0.1:{server.port}/ok", [f"127.0.0.1:{server.port}"]) == image_server.BODY
    assert server.connections == 2


def test_without_hosts_nothing_is_fetched_and_the_error_says_how_to_allow_it(server):
    error = refusal(f"http://127.0.0.1:{server.port}/ok", [])
    assert error.code == "image_url_refused" and error.param == "messages"
    assert "--allow-image-urls" in error.message and "data: URI" in error.message
    assert server.connections == 0


def test_a_host_that_is_not_allowed_is_not_even_resolved():
    def resolver(host, port):
        raise AssertionError(host)

    error = refusal("https://evil.test/a.png", ["example.com"], resolver)
    assert error.code == "image_url_refused" and "--allow-image-urls evil.test" in error.message


@pytest.mark.parametrize("addresses", [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "fe80::1%lo"]])
def test_a_host_with_one_private_address_among_others_is_refused(monkeypatch, addresses):
    monkeypatch.setattr(checked_pool, "_open", lambda *arguments: pytest.fail("connected"))
    error = refusal("http://images.test/", ["*"], lambda host, port: addresses)
    assert error.code == "image_url_refused" and "not public" in error.message


def test_a_connection_goes_to_the_address_that_was_checked_when_the_name_changes_its_answer(server, monkeypatch):
    answers, opened = iter([["93.184.216.34"], ["127.0.0.1"]]), []

    def open_it(address, port, seconds):
        opened.append(str(address))
        raise ConnectionRefusedError

    monkeypatch.setattr(checked_pool, "_open", open_it)
    rules = [f"images.test:{server.port}"]
    error = refusal(f"http://images.test:{server.port}/ok", rules, lambda host, port: next(answers))
    assert error.code == "image_url_failed" and "accepts no connection" in error.message
    assert opened == ["93.184.216.34"] and next(answers) == ["127.0.0.1"] and server.connections == 0


def test_a_name_that_becomes_private_before_a_redirect_is_refused_at_the_second_hop(server):
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    rules = [f"images.test:{server.port}={LOOPBACK}"]
    error = refusal(f"http://images.test:{server.port}/to?/ok", rules, lambda host, port: next(answers))
    assert error.code == "image_url_refused" and [path for path, _ in server.requests] == ["/to?/ok"]


def test_a_connection_to_another_peer_is_closed_before_a_byte_is_sent(server, monkeypatch):
    class Redirected(checked_pool.socket.socket):  # as a rule of a firewall might do
        def connect(self, address):
            super().connect(("127.0.0.1", server.port))

    monkeypatch.setattr(checked_pool.socket, "socket", Redirected)
    with pytest.raises(OSError, match="another address"):
        checked_pool._open(ip_address("93.184.216.34"), 80, 5.0)
    time.sleep(0.1)
    assert server.requests == []


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:%d/ok", "http://2130706433:%d/ok", "//localhost:%d/ok", "http://evil.test:%d/ok", "file:///etc/passwd",
     "http://a@images.test:%d/ok", "http://images.test:22/ok", "\\\\127.0.0.1:%d\\ok", "http://[::1]:%d/ok", "//[::1"],
)  # fmt: skip
def test_a_redirect_is_checked_as_a_url_of_a_request(server, location):
    location = location % server.port if "%d" in location else location
    rules = [f"images.test:{server.port}={LOOPBACK}", "evil.test"]
    error = refusal(f"http://images.test:{server.port}/to?{location}".replace("\\", "%5C"), rules)
    assert error.code in ("image_url_refused", "image_url_failed")
    assert len(server.requests) == 1


def test_redirects_are_followed_three_times_and_not_more(server):
    rules = [f"images.test:{server.port}={LOOPBACK}"]
    base = f"http://images.test:{server.port}"
    assert fetch(f"{base}/to?/to?/to?/ok", rules) == image_server.BODY
    assert "redirects more than 3 times" in refusal(f"{base}/to?/to?/to?/to?/ok", rules).message
    assert "redirects more than 3 times" in refusal(f"{base}/loop", rules).message


def test_a_request_is_plain_and_carries_nothing_of_the_environment(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine images.test login root password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    base = f"http://images.test:{server.port}"
    assert fetch(f"{base}/to?/ok?a=%2F#b", [f"images.test:{server.port}={LOOPBACK}"]) == image_server.BODY
    (_, first), (path, second) = server.requests
    assert path == "/ok?a=%2F"
    for headers in (first, second):
        assert headers["Host"] == f"images.test:{server.port}" and headers["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization", "Referer"} & set(headers)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/missing", "HTTP status 404"),
        ("/gzip", "compressed"),
        ("/short", "broke"),
        ("/text", "bytes) is not an image: expected JPEG,"),
    ],
)
def test_an_answer_that_is_no_image_fails_without_the_text_of_the_other_server(server, path, text):
    error = refusal(f"http://127.0.0.1:{server.port}{path}", [f"127.0.0.1:{server.port}"])
    assert (error.status, error.code) == (400, "image_url_failed")
    assert text in error.message and "secret" not in error.message


def test_a_body_above_the_limit_is_given_up():
    limits = FetchLimits(max_bytes=1 << 20)
    with running(lambda: flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)) as address:
        error = refusal(f"http://{address}/", [address], limits=limits)
    assert error.code == "image_url_failed" and "larger than the limit of 1048576 bytes" in error.message


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_trickles_is_given_up_at_the_time_limit(start):
    began = time.monotonic()
    with running(lambda: drip(start, b"H")) as address:
        error = refusal(f"http://{address}/", [address], limits=FetchLimits(total_seconds=0.4))
    assert "longer than the limit of 0.4 s" in error.message and time.monotonic() - began < 5


def test_a_name_server_that_hangs_is_given_up_at_the_time_limit():
    limits = FetchLimits(total_seconds=0.3)
    error = refusal("http://images.test/", ["*"], lambda host, port: time.sleep(3), limits)
    assert "longer than the limit of 0.3 s" in error.message


def test_a_host_without_an_address_fails_by_its_name():
    def resolver(host, port):
        raise image_urls.socket.gaierror(-2, "Name or service not known")

    assert "images.test has no address" in refusal("http://images.test/", ["*"], resolver).message


def test_many_fetches_share_few_threads_and_one_that_finds_none_free_is_told_to_come_again():
    async def fetch_all(fetcher, url):
        return await asyncio.gather(*(fetcher.fetch(url) for _ in range(4)), return_exceptions=True)

    limits = FetchLimits(total_seconds=0.5, wait_seconds=0.1, max_concurrent=2)
    with running(lambda: drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x")) as address:
        errors = asyncio.run(fetch_all(ImageFetcher([address], limits), f"http://{address}/"))
    assert sorted(error.status for error in errors) == [400, 400, 503, 503]
    assert all(error.headers["Retry-After"] for error in errors if error.status == 503)


def test_a_canceled_fetch_frees_its_thread_at_once():
    async def cancel_one(fetcher, url):
        task = asyncio.create_task(fetcher.fetch(url))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        began = time.monotonic()
        with pytest.raises(ApiError):
            await fetcher.fetch("http://not-allowed.test/")
        return time.monotonic() - began

    with running(lambda: drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x")) as address:
        fetcher = ImageFetcher([address], FetchLimits(total_seconds=30, max_concurrent=1))
        assert asyncio.run(cancel_one(fetcher, f"http://{address}/")) < 5


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_format_that_is_decoded_passes_as_an_image(name):
    file = io.BytesIO()
    try:
        Image.new("RGB", (8, 8)).save(file, name)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {name}")
    assert image_urls.looks_like_image(file.getvalue())


@pytest.mark.parametrize("data", [b"", b"R", b"root:x:0:0", b"<svg/>", b"RIFF\0\0\0\0AVI ", b"{}"])
def test_other_files_do_not(data):
    assert not image_urls.looks_like_image(data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return files of a key and a certificate for images.test."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate of this test, is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    key, file = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=images.test", "-addext", "subjectAltName=DNS:images.test"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(file)], check=True, capture_output=True)
    return key, file


def test_a_certificate_must_be_of_the_host_in_the_url_and_trusted(certificate, monkeypatch):
    key, file = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    with image_server.ImageServer().running(context) as server:
        rules = [f"*:{server.port}={LOOPBACK}"]
        untrusted = refusal(f"https://images.test:{server.port}/ok", rules)
        trusting = ssl.create_default_context(cafile=str(file))
        monkeypatch.setattr(checked_pool, "_certificates", lambda: trusting)
        assert fetch(f"https://images.test:{server.port}/ok", rules) == image_server.BODY
        other = refusal(f"https://other.test:{server.port}/ok", rules)
    assert [path for path, _ in server.requests] == ["/ok"]
    for error in (untrusted, other):
        assert error.code == "image_url_failed" and "certificate" in error.message
