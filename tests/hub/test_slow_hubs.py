"""Hubs that answer without an end: lists and headers have a limit of time, and a file must come on."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hub_server import LIMITS, NAME, SHARD, contents, make_model
from paddlemix.web.request import WebError
from slow_server import drip, flood, running

from paddlemix.hub.download import download
from paddlemix.hub.hub import HubError, resolve
from paddlemix.hub.model_files import RemoteFile

SHORT = replace(LIMITS, connect_seconds=5, read_seconds=5, list_seconds=0.3, list_retries=1)
FOUND = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        lambda: drip(FOUND, b"X: 1\r\n"),
        lambda: drip(FOUND + b"Transfer-Encoding: chunked\r\n\r\n5;", b"a"),
        lambda: drip(FOUND + b"\r\n", b" "),
        lambda: flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "chunk extension", "body", "100 Continue"],
)
@pytest.mark.parametrize("hub", ["hf", "url"])
def test_list_without_an_end_is_left_at_the_limit(answers, hub, server, monkeypatch):
    with running(answers) as address:
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        started = time.monotonic()
        with pytest.raises(HubError, match=r"took longer than 0\.3 s"):
            resolve(NAME, hub=f"http://{address}/plain" if hub == "url" else hub, limits=SHORT)
        assert time.monotonic() - started < 4 * 0.3 + 1


def test_file_that_is_larger_than_the_hub_lists_is_left_at_once(tmp_path):
    with running(lambda: flood(FOUND + b"\r\n", b"x" * 100_000)) as address:
        file = RemoteFile("config.json", f"http://{address}/config.json", size=10)
        started = time.monotonic()
        with pytest.raises(WebError, match="bytes came, the hub lists 10"):
            download([file], tmp_path, title="a", headers={}, limits=LIMITS)
        assert time.monotonic() - started < 3 and not list(tmp_path.iterdir())


def test_file_that_stalls_is_taken_up_again_and_given_up_after_the_retries(server):
    server.faults[SHARD] = itertools.chain(["slow"], itertools.repeat("ok"))
    limits = replace(LIMITS, stall_seconds=0.2, stall_bytes=100_000, max_retries=1)
    assert contents(server.resolve(limits=limits)) == make_model()
    (first, second) = server.gets(SHARD)
    assert first[2] == 0 < second[2]

    server.faults["model-00002-of-00002.safetensors"] = itertools.repeat("slow")
    with pytest.raises(HubError, match=r"less than 100000 bytes came in 0\.1 s \(gave up after 2 attempts in a row\)"):
        server.resolve(limits=replace(limits, stall_seconds=0.1), revision="v2")


def test_file_that_comes_on_may_take_longer_than_any_limit(server):
    server.faults[SHARD] = iter(["slow"])  # half a second, a tenth of it every 0.05 s
    limits = replace(LIMITS, stall_seconds=0.3, stall_bytes=20_000, list_seconds=0.4)
    assert contents(server.resolve(limits=limits)) == make_model()
    assert len(server.gets(SHARD)) == 1
