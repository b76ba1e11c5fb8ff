"""The hubs of `hub_server` with one model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import hub_server
import pytest
from hub_server import LIMITS, NAME, make_model
from huggingface_hub import constants

from paddlemix.hub.limits import HubLimits
from paddlemix.hub.resolve import resolve


@pytest.fixture(scope="module")
def running():
    with hub_server.running() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch, tmp_path):
    """Return the hubs with one model. Every hub's address leads to them; `server.resolve()` has a fresh cache."""
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    for variable in ("PADDLEMIX_HUB", "PADDLEMIX_HUB_URL", "PADDLEMIX_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))  # of processes that a test starts
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1.5)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    for module in ("file_download", "utils._http"):  # no pauses between its attempts
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("MODELSCOPE_DOMAIN", running.url)
    monkeypatch.setenv("COMMUNITY_MODEL_PREFIX", f"{running.url}/plain/")
    running.models = {NAME: make_model()}
    running.seen, running.agents, running.faults, running.listed, running.is_gated = [], set(), {}, {}, False
    running.pause = 0.05
    running.num_sent, running.has_head, running.has_hashes, running.has_md5 = 0, True, True, False

    def ask(hub: str | None = "hf", name: str = NAME, limits: HubLimits = LIMITS, **options) -> Path:
        return resolve(name, hub=f"{running.url}/plain" if hub == "url" else hub, limits=limits, **options)

    running.resolve = ask
    return running
