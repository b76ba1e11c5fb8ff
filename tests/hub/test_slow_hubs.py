"""Hubs with endless answers: lists and headers have a time limit, and a file must make progress."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import LIMITS, NAME, SHARD, contents, make_model, wait_until
from slow_server import drip, flood, running

from paddlemix.hub.download import download
from paddlemix.hub.model_files import RemoteFile
from paddlemix.hub.resolve import HubError, resolve
from paddlemix.web.request import WebError

SHORT = replace(LIMITS, connect_seconds=5, read_seconds=5, list_seconds=0.3, list_retries=1)
FOUND = b"HTTP/1.1 200 OK\r\n"
BOUND = 10  # seconds, for a busy machine; the servers go on for at least twice as long


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
def test_endless_list_is_abandoned_at_the_limit(answers, hub, server, monkeypatch):
    with running(answers) as address:
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        started = time.monotonic()
        with pytest.raises(HubError, match=r"took longer than 0\.3 s"):
            resolve(NAME, hub=f"http://{address}/plain" if hub == "url" else hub, limits=SHORT)
        assert time.monotonic() - started < BOUND


def test_file_that_is_larger_than_the_hub_lists_is_abandoned_at_once(tmp_path):
    with running(lambda: flood(FOUND + b"\r\n", b"x" * 100_000)) as address:
        file = RemoteFile("config.json", f"http://{address}/config.json", size=10)
        started = time.monotonic()
        with pytest.raises(WebError, match="bytes came, the hub lists 10"):
            download([file], tmp_path, title="a", limits=LIMITS)
        assert time.monotonic() - started < BOUND and not list(tmp_path.iterdir())


def test_file_that_stalls_is_resumed_and_given_up_after_the_retries(server):
    server.faults[SHARD] = itertools.chain(["slow"], itertools.repeat("ok"))
    server.pause = 0.6
    limits = replace(LIMITS, stall_seconds=1, stall_bytes=100_000, max_retries=1)
    assert contents(server.resolve("modelscope", limits=limits)) == make_model()
    (first, second) = server.gets(SHARD)
    assert first[2] == 0 < second[2]

    server.faults["model-00002-of-00002.safetensors"] = itertools.repeat("slow")
    with pytest.raises(HubError, match=r"less than 100000 bytes came in 0\.3 s \(gave up after 2 attempts in a row\)"):
        server.resolve("modelscope", limits=replace(limits, stall_seconds=0.3), revision="v2")


def test_file_that_stalls_in_huggingface_hub_ends_the_download(server):
    server.pause = 0.6
    server.faults[SHARD] = iter(["slow"])
    limits = replace(LIMITS, stall_seconds=0.03, stall_bytes=1_000_000)
    with pytest.raises(HubError, match=r"broke off: \S+: less than 1000000 bytes came in 0\.3 s\. What was"):
        server.resolve(limits=limits)
    server.pause = 0
    wait_until(lambda: not list(Path("cache").rglob("*.incomplete")))  # the thread that was left behind has ended


@pytest.mark.parametrize(("hub", "stall_seconds"), [("hf", 0.2), ("modelscope", 2)])  # 10 times as long for hf
def test_file_that_makes_progress_may_take_longer_than_any_limit(server, hub, stall_seconds):
    server.pause = 0.3  # a tenth of the file each, so 3 seconds in all
    server.faults[SHARD] = iter(["slow"])
    limits = replace(LIMITS, stall_seconds=stall_seconds, stall_bytes=1, list_seconds=2.5)
    assert contents(server.resolve(hub, limits=limits)) == make_model()
    assert len(server.gets(SHARD)) == 1
