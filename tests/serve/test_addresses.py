"""Addresses that are not public, odd spellings of URLs, and the operator's rules."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from paddlemix.serve.images.addresses import Target, is_public, parse_rule, parse_url

CLOSED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1
100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
2002:808:808::1 3ffe::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo febf::1 fec0::1 ff02::1 ff0e::1
2606:4700:4700::1111%eth0
""".split()
OPEN = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 168.63.129.17 172.15.255.255 172.32.0.0
192.0.1.1 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255 2001:200::1 2001:4860:4860::8888 2400:cb00::1
2606:4700:4700::1111 2a00:1450:4001::1
""".split()


@pytest.mark.parametrize("text", CLOSED)
def test_an_address_that_is_not_global_unicast_is_not_public(text):
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", OPEN)
def test_a_global_address_is_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", OPEN)
def test_what_is_public_here_is_global_for_python_too(text):
    assert ip_address(text).is_global


URLS = {
    "http://example.com": Target("http", "example.com", 80, "/"),
    "HTTPS://Images.Example.COM/A?b=%2F#c": Target("https", "images.example.com", 443, "/A?b=%2F"),
    "http://example.com:8080?x=1": Target("http", "example.com", 8080, "/?x=1"),
    "http://8.8.8.8/a": Target("http", "8.8.8.8", 80, "/a"),
    "http://[2606:4700:4700:0::1111]:81/a": Target("http", "2606:4700:4700::1111", 81, "/a"),
    "https://example.com/图片 1.png".replace(" ", "%20"): Target(
        "https", "example.com", 443, "/%E5%9B%BE%E7%89%87%201.png"
    ),
    "https://store.example.com/a?X-Sig=a+b/c==&d=e~f@g:h": Target(
        "https", "store.example.com", 443, "/a?X-Sig=a+b/c==&d=e~f@g:h"
    ),
}


@pytest.mark.parametrize(("url", "target"), URLS.items())
def test_a_plain_url_is_read(url, target):
    assert parse_url(url) == target


@pytest.mark.parametrize(
    ("text", "covered", "others"),
    [
        ("example.com", ["http://example.com/a", "https://EXAMPLE.com"],
         ["http://www.example.com", "http://example.com:8080", "http://example.com.evil.net", "http://badexample.com"]),
        ("*.example.com", ["http://a.example.com", "https://b.a.example.com"],
         ["http://example.com", "http://aexample.com", "http://a.example.com:81", "http://.example.com.evil.net"]),
        ("example.com:8443", ["https://example.com:8443/", "http://example.com:8443"], ["https://example.com"]),
        ("https://example.com/", ["https://example.com"], ["http://example.com", "https://example.com:80"]),
        ("*", ["http://anything.net", "https://8.8.8.8"], ["http://anything.net:22", "https://anything.net:80"]),
        ("*:9000", ["http://anything.net:9000"], ["http://anything.net"]),
        ("http://10.0.0.5:9000", ["http://10.0.0.5:9000/a"], ["http://10.0.0.5/", "https://10.0.0.5:9000"]),
        ("[fd00::5]", ["http://[FD00:0:0::5]/"], ["http://[fd00::6]/"]),
    ],
)  # fmt: skip
def test_a_rule_covers_its_hosts_and_ports_and_no_others(text, covered, others):
    rule = parse_rule(text)
    for url in covered + others:
        try:
            is_covered = rule.covers(parse_url(url))
        except ValueError:
            is_covered = False
        assert is_covered == (url in covered), url


def test_only_a_rule_with_an_address_or_a_network_opens_private_addresses():
    inner, outer, public = ip_address("10.0.0.5"), ip_address("10.0.0.6"), ip_address("8.8.8.8")
    for text, expected in {
        "*": (False, False, True),
        "images.internal": (False, False, True),
        "10.0.0.5:9000": (True, False, True),
        "images.internal:9000=10.0.0.0/8": (True, True, True),
        "images.internal=10.0.0.5": (True, False, True),
    }.items():
        rule = parse_rule(text)
        assert (rule.permits(inner), rule.permits(outer), rule.permits(public)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a b", "ftp://example.com", "example.com:0", "example.com:99999", "*.*.example.com", "exa*mple.com",
     "*.10.0.0.5", "user@example.com", "example.com/path", "127.1", "0x7f000001", "a=10.0.0.1/8", "a=b", "例子.com",
     "[fe80::1%lo]", "example.com."],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"is not a host from which images may be fetched.*Expected example\.com"):
        parse_rule(text)
