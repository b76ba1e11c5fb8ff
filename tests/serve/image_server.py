"""A web server of a test on both loopback addresses. It counts the connections that arrive."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20


class ImageServer:
    """Answers `/ok` with BODY, `/to?URL` with a redirect to URL, and other paths as the tests need."""

    def __init__(self):
        self.connections = 0
        self.requests: list[tuple[str, dict[str, str]]] = []  # path, headers
        self.port = 0

    @contextlib.contextmanager
    def running(self, context: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
        """Listen on a free port of 127.0.0.1, and on the same one of ::1 if there is IPv6."""
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(_Listener(("127.0.0.1", 0), _handler_of(self), self))
            self.port = first.server_port
            listeners = [first]
            with contextlib.suppress(OSError):  # no IPv6, or the port is taken there
                listeners.append(stack.enter_context(_Listener6(("::1", self.port), _handler_of(self), self)))
            if context is not None:
                first.socket = context.wrap_socket(first.socket, server_side=True, do_handshake_on_connect=False)
            for listener in listeners:
                threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            yield self
            for listener in listeners:
                listener.shutdown()


class _Listener(ThreadingHTTPServer):
    def __init__(self, address, handler, owner: ImageServer):
        super().__init__(address, handler)
        self.owner = owner

    def get_request(self):
        result = super().get_request()
        self.owner.connections += 1
        return result

    def handle_error(self, request, client_address):
        """Stay silent about clients that close their connection, which is what the tests are about."""


class _Listener6(_Listener):
    address_family = socket.AF_INET6


def _handler_of(owner: ImageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            owner.requests.append((self.path, dict(self.headers.items())))
            path, _, query = self.path.partition("?")
            if path == "/to":
                self._answer(302, b"", Location=query.replace("%5C", "\\"))
            elif path == "/loop":
                self._answer(307, b"", Location="/loop")
            elif path == "/gzip":
                self._answer(200, BODY, **{"Content-Encoding": "gzip"})
            elif path == "/missing":
                self._answer(404, b"secret text of the other server")
            elif path == "/text":
                self._answer(200, b"secret text that is no image")
            elif path == "/short":
                self._answer(200, BODY, **{"Content-Length": str(len(BODY) + 10)})
            else:
                self._answer(200, BODY)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "Set-Cookie": "a=b", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format, *args):
            """Print nothing."""

    return Handler
