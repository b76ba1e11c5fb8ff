"""The hubs of `hub_server`, with one model, and how the tests ask them."""

from __future__ import annotations

from pathlib import Path

import hub_server
import pytest
from hub_server import LIMITS, NAME, make_model

from paddlemix.hub.hub import resolve
from paddlemix.hub.sources import HubLimits


@pytest.fixture(scope="module")
def running():
    with hub_server.running() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch, tmp_path):
    """The hubs, with one model; every hub's address leads to them. `server.resolve()` asks in a fresh cache."""
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    for variable in ("PADDLEMIX_HUB", "PADDLEMIX_HUB_URL", "PADDLEMIX_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", running.url)
    monkeypatch.setenv("COMMUNITY_MODEL_PREFIX", f"{running.url}/plain/")
    running.models = {NAME: make_model()}
    running.seen, running.faults, running.listed = [], {}, {}
    running.num_sent, running.has_head, running.has_hashes, running.has_md5 = 0, True, True, False

    def ask(hub: str | None = "hf", name: str = NAME, limits: HubLimits = LIMITS, **options) -> Path:
        return resolve(name, hub=f"{running.url}/plain" if hub == "url" else hub, limits=limits, **options)

    running.resolve = ask
    return running
