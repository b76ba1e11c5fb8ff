"""A session of requests whose connections end at a deadline, and which does not read the bodies of redirects."""

from __future__ import annotations

import io
import logging

import requests
from requests.adapters import HTTPAdapter

from .clock import ExchangeClock


def make_session(clock: ExchangeClock, max_redirects: int) -> requests.Session:
    """Return a session for one exchange over http and https, redirects and proxies included."""
    logger = logging.getLogger("urllib3")
    if logger.level == logging.NOTSET:  # its warnings of odd headers print the server's text and a traceback
        logger.setLevel(logging.CRITICAL)
    session = requests.Session()
    session.max_redirects = max_redirects
    for scheme in ("http://", "https://"):  # without an adapter, a redirect to another scheme fails
        session.mount(scheme, _Adapter(clock))
    return session


class _Adapter(HTTPAdapter):
    def __init__(self, clock: ExchangeClock):
        super().__init__()
        self.clock = clock
        _watch(self.poolmanager, clock)

    def proxy_manager_for(self, proxy, **proxy_kwargs):
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if is_new:
            _watch(manager, self.clock)
        return manager

    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        """Send a request. The body of a redirect, which may be endless, is not read."""
        response = super().send(request, stream, timeout, verify, cert, proxies)
        if response.is_redirect:
            response.raw.close()
            response.raw = io.BytesIO()
        return response


def _watch(manager, clock: ExchangeClock) -> None:
    """Make a connection manager open each connection through the clock."""
    classes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _watched(pool, clock) for scheme, pool in classes.items()}


def _watched(pool_class: type, clock: ExchangeClock) -> type:
    class Connection(pool_class.ConnectionCls):
        def _new_conn(self):  # NOTE: urllib3's own contrib/socks.py overrides this method, too
            return clock.connect(super()._new_conn)

    class Pool(pool_class):
        ConnectionCls = Connection

    return Pool
