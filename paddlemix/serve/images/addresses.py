"""Which URLs a server may fetch: their syntax, the rules of the operator, and which addresses are public.

Strict on purpose: programs disagree about odd spellings of a URL (`http://a\\@b`, `http://127.1`), and what one of them
checks, another one connects to. So a URL that is not plain is refused, and its parts are used as they were checked.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_LENGTH = 8192  # signed addresses of stores have 2,000 and more
PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(#.*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_RESERVED = "!$&'()*+,;=:@/?[]~%"  # stay as they are in a path and a query

# NOTE: own lists, because `is_global` of the module ipaddress differs between releases of Python. Sources: IANA's
# special-purpose address registries for IPv4 and IPv6.
_CLOSED_IPV4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' translation; holds 100.100.100.200, a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent: a public address that only a virtual machine reaches
        "169.254.0.0/16",  # link-local; holds 169.254.169.254, most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All others: loopback, mapped and compatible IPv4, NAT64, discard, unique local, link-local, site-local, multicast.
_OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3ffe::/16",  # 6bone, returned
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Return whether an address is global unicast and holds no other address in it."""
    if address.version == 4:
        return not any(address in network for network in _CLOSED_IPV4)
    if address.scope_id is not None:
        return False
    return address in _OPEN_IPV6 and not any(address in network for network in _CLOSED_IPV6)


@dataclass(frozen=True)
class Target:
    """A checked URL. host: lower case, an IPv6 address without brackets. path: with the query, percent-encoded."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """The URL without its path."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_url(url: str) -> Target:
    """Return the parts of an http(s) URL. Raises ValueError that says what is wrong and does not repeat the URL."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"it has {len(url)} characters: expected at most {MAX_URL_LENGTH}")
    if _UNSAFE.search(url):
        raise ValueError("it contains a space, a control character or a backslash: write them percent-encoded")
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("expected a URL that begins with http:// or https://")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if "@" in authority:
        raise ValueError("it contains a user name: expected http(s)://HOST/PATH")
    host, port = parse_authority(authority)
    path = path if path.startswith("/") else f"/{path}"
    return Target(scheme, host, PORTS[scheme] if port is None else port, _quoted(path))


def _quoted(path: str) -> str:
    try:
        return quote(path, safe=_RESERVED)
    except UnicodeEncodeError as error:
        raise ValueError("it contains half of a surrogate pair") from error


def parse_authority(text: str) -> tuple[str, int | None]:
    """Return host and port of `HOST`, `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None or not text.isascii():
        raise ValueError(
            "its host is not plain: expected a name or an address, and other scripts in punycode (xn--...)"
        )
    host, port = match[1], match[2]
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError(f"its port is {port}: expected 1 to 65535")
    return _checked_host(host), None if port is None else int(port)


def _checked_host(host: str) -> str:
    if host.startswith("["):
        return str(_parsed(ipaddress.IPv6Address, host[1:-1]))
    labels = host.split(".")
    # As browsers do: a name that ends in a number is an IPv4 address. NOTE: the C library also reads 127.1, 0x7f.1,
    # 0177.0.0.1 and 2130706433.
    if _NUMBER.fullmatch(labels[-1]):
        return str(_parsed(ipaddress.IPv4Address, host))
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its host is not plain: expected labels of 1 to 63 letters, digits and hyphens between dots")
    return host


def _parsed(kind: type, text: str) -> Address:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError("its host is not a plain IP address: expected 192.0.2.1 or [2001:db8::1]") from error


def address_of(host: str) -> Address | None:
    """Return the address that a host is written as; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True)
class HostRule:
    """From where images may be fetched: an entry of `--allow-image-urls`.

    `example.com` is that host, `*.example.com` every host below it (not itself), `*` every host. Without `:PORT` only
    the scheme's own port is open; `https://` before it allows no http. Addresses that are not public are refused,
    whatever name leads to them. A store in the own network needs a rule of its own, either by its address
    (`10.0.0.5:9000`) or by its name and the network that it may be in (`images.internal:9000=10.0.0.0/8`).

    host: "*" for all, ".example.com" for all below it. networks: which are open beside the public addresses.
    """

    host: str
    port: int | None = None
    scheme: str | None = None
    networks: tuple[Network, ...] = ()

    def covers(self, target: Target) -> bool:
        """Return whether a URL is meant by this rule."""
        if self.scheme not in (None, target.scheme):
            return False
        if target.port != (PORTS[target.scheme] if self.port is None else self.port):
            return False
        is_below = self.host.startswith(".") and target.host.endswith(self.host) and len(target.host) > len(self.host)
        return self.host in ("*", target.host) or is_below

    def permits(self, address: Address) -> bool:
        """Return whether a connection to an address of the host is allowed."""
        return is_public(address) or any(address in network for network in self.networks)


def parse_rule(text: str) -> HostRule:
    """Return the rule of an entry of `--allow-image-urls`. Raises ValueError that shows the entry."""
    scheme, separator, rest = text.strip().rpartition("://")
    authority, equals, network = rest.rstrip("/").partition("=")
    try:
        if separator and scheme.lower() not in PORTS:
            raise ValueError(f"its scheme is {scheme!r}: expected http or https")
        host, port = _parse_pattern(authority)
        networks = (ipaddress.ip_network(network),) if equals else ()
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a host from which images may be fetched: {error}. Expected example.com, *.example.com, "
            "example.com:8443, https://example.com, 10.0.0.5:9000 or images.internal=10.0.0.0/8"
        ) from error
    address = address_of(host)
    if address is not None:  # whoever writes an address down means it
        networks += (ipaddress.ip_network(address),)
    return HostRule(host, port, scheme.lower() or None, networks)


def _parse_pattern(authority: str) -> tuple[str, int | None]:
    if authority == "*" or authority.startswith("*:"):
        return "*", parse_authority(authority.replace("*", "any", 1))[1]
    if authority.startswith("*."):
        host, port = parse_authority(authority[2:])
        if address_of(host) is not None:
            raise ValueError("an address has no hosts below it")
        return f".{host}", port
    return parse_authority(authority)
