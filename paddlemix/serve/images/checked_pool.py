"""Connections to addresses that were checked before, without asking a name server again. Knows no rules.

The name in the URL is still the one of the Host header and of the certificate. Certificates that are trusted: those of
the system (or of SSL_CERT_FILE) and of certifi.
"""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ...web.clock import ExchangeClock
from .addresses import Address, Target


def checked_pool(
    target: Target, addresses: Sequence[Address], clock: ExchangeClock, timeout: urllib3.Timeout
) -> HTTPConnectionPool:
    """Return a connection pool for a host whose connections go to one of the given addresses. clock: ends them."""
    base = HTTPSConnectionPool if target.scheme == "https" else HTTPConnectionPool

    class Connection(base.ConnectionCls):
        def _new_conn(self) -> socket.socket:
            return _connect(addresses, target.port, clock, timeout.connect_timeout)

    class Pool(base):
        ConnectionCls = Connection

    options = {"ssl_context": _certificates()} if target.scheme == "https" else {}
    return Pool(target.host, target.port, timeout=timeout, maxsize=1, **options)


def _connect(addresses: Sequence[Address], port: int, clock: ExchangeClock, seconds: float) -> socket.socket:
    """Return a connection to the first address that accepts one. Raises OSError of the last one."""
    for position, address in enumerate(addresses):
        try:
            return clock.connect(functools.partial(_open, address, port, seconds))
        except OSError:
            if clock.has_run_out or position == len(addresses) - 1:
                raise
    raise AssertionError("no address to connect to")


def _open(address: Address, port: int, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((str(address), port))
        if ip_address(connection.getpeername()[0]) != address:
            raise OSError("connected to another address")
    except BaseException:
        connection.close()
        raise
    return connection


@functools.cache
def _certificates() -> ssl.SSLContext:
    import certifi  # comes with requests

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
