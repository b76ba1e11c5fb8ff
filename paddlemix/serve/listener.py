"""The socket of a server: opened before anything else, with an error that says what to do. Standard library only."""

from __future__ import annotations

import errno
import socket

MAX_PORT = 65535
NO_LOOPBACK = ("0.0.0.0", "::", "")


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket for a server. Raises ValueError if the address cannot be used."""
    if not 0 <= port <= MAX_PORT:  # the system would take its lower 16 bits
        raise ValueError(f"--port {port} is no port: expected 0 to {MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"--host {host} is no address of this machine: {error}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # NOTE: with SO_REUSEADDR, Linux reports a busy port here for a socket bound at the same time.
        listener.listen(0)
    except OSError as error:
        listener.close()
        raise ValueError(_explained(host, port, error)) from None
    return listener


def _explained(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop the program that uses it, or take another with --port (0: any)"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used: ports below 1024 need more rights; take another with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all"
    return f"{host}:{port} cannot be used: {error.strerror or error}"


def address_of(host: str, port: int) -> str:
    """Return the address at which this machine reaches a server."""
    host = "127.0.0.1" if host in NO_LOOPBACK else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
