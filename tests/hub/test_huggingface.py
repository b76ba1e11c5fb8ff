"""The cache of huggingface_hub: models of other tools are found in it, and other tools find ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import NAME, SHARD, contents, make_model
from huggingface_hub import constants, snapshot_download

from paddlemix.cli import main
from paddlemix.hub.resolve import HubError, resolve
from paddlemix.hub.stores import MARKER

UNREAD = {"README.md": b"x", "pytorch_model.bin": b"x", "images/view.jpg": b"x"}


def download_with_another_tool(server, **options) -> Path:
    return Path(snapshot_download(NAME, endpoint=server.url, cache_dir=constants.HF_HUB_CACHE, **options))


@pytest.mark.parametrize("hub", ["auto", "hf"])
def test_model_that_another_tool_downloaded_is_found_without_network(server, monkeypatch, hub):
    server.models[NAME] |= UNREAD
    folder = download_with_another_tool(server)
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    server.seen.clear()

    assert server.resolve(hub) == folder
    assert server.resolve(hub, revision=folder.name) == folder  # by its commit
    assert server.seen == []


def test_model_is_read_through_the_links_of_the_cache(server, capsys):
    model = Path(__file__).parents[2] / "paddlemix/examples/llava/tiny/model"
    server.models[NAME] = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    folder = download_with_another_tool(server)

    assert (folder / "model.safetensors").is_symlink()
    assert main(["inspect", NAME]) == 0 and "nothing is missing" in capsys.readouterr().out


def test_revision_that_another_tool_downloaded_is_not_taken_for_the_main_one(server, monkeypatch):
    folder = download_with_another_tool(server, revision="v2")
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")

    assert server.resolve("auto", revision="v2") == folder
    with pytest.raises(HubError, match="no complete copy"):
        server.resolve("auto")


def test_model_in_the_cache_of_an_earlier_version_is_found(server, monkeypatch):
    folder = Path(os.environ["PADDLEMIX_CACHE"]) / "models" / "hf" / NAME.replace("/", "--")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / MARKER).write_text('{"files": {"config.json": 2}}')
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")

    assert server.resolve("hf") == folder
    (folder / "config.json").write_text("")
    with pytest.raises(HubError, match="no complete copy"):
        server.resolve("hf")


@pytest.mark.parametrize("patterns", [["*.json", "tokenizer*"], ["*.json", SHARD], [SHARD]])
def test_part_of_a_model_is_no_model_and_is_completed(server, monkeypatch, patterns):
    monkeypatch.delenv("PADDLEMIX_CACHE")
    folder = download_with_another_tool(server, allow_patterns=patterns)
    had = contents(folder)
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    with pytest.raises(HubError, match="no complete copy"):
        server.resolve("hf")
    monkeypatch.delenv("PADDLEMIX_OFFLINE")
    server.seen.clear()

    assert server.resolve("hf") == folder and contents(folder) == make_model()
    index = {"model.safetensors.index.json"}  # read before the download, to know the shards
    assert {one[1] for one in server.gets()} - index == make_model().keys() - had.keys() - index


def test_other_tools_find_downloaded_files(server, monkeypatch):
    monkeypatch.delenv("PADDLEMIX_CACHE")
    folder = server.resolve("hf")
    server.seen.clear()

    assert download_with_another_tool(server, local_files_only=True) == folder
    assert server.seen == []


def test_set_cache_takes_downloads_and_both_are_searched(server, monkeypatch):
    folder = server.resolve("hf")
    assert folder.is_relative_to(Path("cache/models/hf").absolute()) and not Path("hf_cache").exists()

    monkeypatch.setenv("PADDLEMIX_CACHE", "elsewhere")
    assert resolve(NAME, hub="hf").is_relative_to("elsewhere/models/hf")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "cache/models/hf")
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    monkeypatch.setenv("PADDLEMIX_CACHE", "nowhere")
    assert resolve(NAME, hub="hf").resolve() == folder


def test_gated_model_is_reported_with_a_fix(server):
    server.is_gated = True
    with pytest.raises(HubError, match=r"HTTP status 403 Forbidden: gated; accept its terms at .* and set HF_TOKEN"):
        server.resolve("hf")


def test_saved_login_is_used(server, tmp_path):
    (tmp_path / "no_token").write_text("hf_saved")
    server.resolve("hf")
    assert server.seen[0][3] == "Bearer hf_saved"


def test_name_of_three_parts_is_not_asked_for(server):
    with pytest.raises(HubError, match=r"Hugging Face hub .*: it has no names of this form, expected owner/model"):
        server.resolve("hf", name="paddlemix/llava/llava-v1.5-7b")


def test_offline_mode_of_huggingface_hub_is_respected(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"""
from paddlemix.hub.resolve import HubError, resolve
from paddlemix.hub.stores import MARKER
try:
    resolve({NAME!r}, hub="hf")
except HubError as error:
    print(error)
"""
    assert f"Hugging Face hub ({server.url}): not asked, because HF_HUB_OFFLINE is set" in run(code)
    assert server.seen == []


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_requests_state_no_more_than_the_versions(server, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    run(f"from paddlemix.hub.resolve import resolve; resolve({NAME!r}, hub='hf')")
    assert server.agents and all(agent.startswith("paddlemix") and "torch" not in agent for agent in server.agents)


def test_local_folder_needs_no_huggingface_hub(tmp_path):
    code = f"import sys; from paddlemix.hub.resolve import resolve; resolve({str(tmp_path)!r}); print(*sys.modules)"
    assert not {"huggingface_hub", "requests", "tqdm"} & set(run(code).split())
