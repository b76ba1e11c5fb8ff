"""The nginx file in front of two servers: streams, failures of a server, nginx's own errors, TLS. Without a model."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
FILE = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "serve" / "nginx.conf"
AROUND = """daemon off; pid nginx.pid; error_log error.log notice; worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    include {file};
}}
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light"),
    pytest.mark.skipif(
        shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed"
    ),
]


class Backend(BaseHTTPRequestHandler):
    """A server that streams, counts its requests and notes those whose client has gone."""

    protocol_version = "HTTP/1.1"
    status = 200

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, dict(self.headers)))
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(self.server.num_pieces):
                self._piece(b"data: %d\n\n" % number)
                time.sleep(0.1)
            self._piece(b"")
        except OSError:
            self.server.gone.set()
            self.close_connection = True

    def _piece(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format, *arguments):
        pass


def backend(port=0):
    server = ThreadingHTTPServer(("127.0.0.1", port), Backend)
    server.daemon_threads = True
    server.seen, server.gone, server.status, server.num_pieces = [], threading.Event(), 200, 3
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def close(server):
    server.shutdown()
    server.server_close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def configured(folder, ports, addresses):
    """Write the shipped file with the ports, servers and certificate of the test in place of the marked lines."""
    text = FILE.read_text(encoding="utf-8")
    pairs = [
        ("listen 80;", f"listen 127.0.0.1:{ports[0]};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{ports[1]} ssl;"),
        ("/etc/ssl/llava.example.com.crt", f"{folder}/cert.pem"),
        ("/etc/ssl/private/llava.example.com.key", f"{folder}/key.pem"),
        ("10.0.0.1:8000", addresses[0]),
        ("10.0.0.2:8000", addresses[1]),
        ("fail_timeout=10s", "fail_timeout=2s"),
    ]
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(AROUND.format(file=folder / "site.conf"), encoding="utf-8")


@contextmanager
def nginx(folder, addresses):
    """Yield the port of nginx in front of two servers."""
    ports = free_port(), free_port()
    configured(folder, ports, addresses)
    subject = ["-subj", "/CN=llava.example.com", "-addext", "subjectAltName=DNS:llava.example.com"]
    keys = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *keys, *subject], check=True, capture_output=True
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(ports[1])
        yield ports
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port):
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


@pytest.fixture
def two(tmp_path):
    servers = backend(), backend()
    try:
        with nginx(tmp_path, [f"127.0.0.1:{server.server_port}" for server in servers]) as ports:
            yield *servers, ports, tmp_path
    finally:
        for server in servers:
            close(server)


def connect(port, folder):
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sock = context.wrap_socket(raw, server_hostname="llava.example.com")
    return connection


def ask(port, folder, path="/v1/chat/completions", body=b"{}"):
    connection = connect(port, folder)
    connection.request("POST", path, body, {"Host": "llava.example.com"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def test_requests_are_spread_and_streams_come_piece_by_piece(two):
    first, second, ports, folder = two
    connection = connect(ports[1], folder)
    connection.request("POST", "/v1/chat/completions", b"{}", {"Host": "llava.example.com"})
    answer, times = connection.getresponse(), []
    while line := answer.readline():
        if line.startswith(b"data"):
            times.append(time.monotonic())
    assert len(times) == 3 and times[2] - times[0] > 0.15
    threads = [threading.Thread(target=ask, args=(ports[1], folder)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(len(first.seen), len(second.seen)) >= 2
    _, headers = (first.seen + second.seen)[0]
    assert headers["Host"] == "llava.example.com" and headers["X-Forwarded-For"] == "127.0.0.1"


@pytest.mark.parametrize("status", [503, None])
def test_a_server_that_loads_or_is_gone_is_left_out(two, status):
    first, second, ports, folder = two
    if status is None:
        close(first)
    else:
        first.status = status
    assert [ask(ports[1], folder)[0].status for _ in range(6)] == [200] * 6
    assert len(second.seen) == 6 and len(first.seen) <= 2


def test_a_full_queue_is_passed_on_and_does_not_count_as_a_failure(two):
    first, second, ports, folder = two
    first.status = second.status = 429
    assert [ask(ports[1], folder)[0].status for _ in range(4)] == [429] * 4
    first.status = second.status = 200
    assert [ask(ports[1], folder)[0].status for _ in range(4)] == [200] * 4


def test_nginxs_own_errors_have_openais_shape(two):
    first, second, ports, folder = two
    answer, data = ask(ports[1], folder, body=b"x" * ((64 << 20) + 1))
    assert answer.status == 413 and json.loads(data)["error"]["code"] == "request_too_large"
    close(first)
    close(second)
    answer, data = ask(ports[1], folder)
    assert answer.status == 503 and answer.headers["Retry-After"] == "5"
    assert json.loads(data)["error"]["code"] == "no_server"


def test_a_client_that_leaves_ends_the_request_at_the_server(two):
    first, second, ports, folder = two
    first.num_pieces = second.num_pieces = 100
    connection = connect(ports[1], folder)
    connection.request("POST", "/v1/chat/completions", b"{}", {"Host": "llava.example.com"})
    connection.getresponse().readline()
    connection.close()
    assert first.gone.wait(5) if first.seen else second.gone.wait(5)


def test_plain_http_is_redirected_and_metrics_are_not_passed_on(two):
    first, second, ports, folder = two
    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10)
    connection.request("GET", "/v1/models", headers={"Host": "llava.example.com"})
    answer = connection.getresponse()
    assert answer.status == 308 and answer.headers["Location"] == "https://llava.example.com/v1/models"
    assert ask(ports[1], folder, "/metrics")[0].status == 404 and not first.seen + second.seen
