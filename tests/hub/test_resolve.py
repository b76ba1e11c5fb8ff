"""Resolving names of models: which hubs are asked, which files are downloaded, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import NAME, SHARD, contents, make_model

from paddlemix.hub.resolve import HubError, offline, resolve
from paddlemix.tensor_files.stored import CheckpointError

HUBS = ("hf", "modelscope", "paddle", "url")


@pytest.mark.parametrize("hub", HUBS)
def test_every_hub_downloads_the_whole_model_once(server, hub):
    folder = server.resolve(hub)

    assert contents(folder) == server.models[NAME]
    assert folder.is_relative_to(Path("cache/models").absolute())
    assert sorted(one[1] for one in set(server.gets())) == sorted([*server.models[NAME]])
    asked = len(server.seen)
    assert server.resolve(hub) == folder
    assert len(server.seen) == asked


def test_an_existing_folder_or_file_is_returned(server, tmp_path):
    (tmp_path / NAME).mkdir(parents=True)

    assert server.resolve(None) == Path(NAME)
    assert resolve(tmp_path) == tmp_path
    assert server.seen == []


def test_only_files_that_are_read_are_downloaded_with_the_weights_in_one_format(server):
    unread = {
        "pytorch_model.bin": b"x",
        "pytorch_model-00001-of-00001.bin": b"x",
        "model_state.pdparams": b"x",
        "model.safetensors": b"the single file, left from before there were shards",
        "mm_projector.bin": b"x",
        "tf_model.h5": b"x",
        "flax_model.msgpack": b"x",
        "onnx/model.onnx": b"x",
        "modeling_llava.py": b"x",
        "trainer_state.json": b"{}",
        "README.md": b"x",
        "checkpoint-10/model.safetensors": b"x",
    }
    server.models[NAME] |= unread

    assert contents(server.resolve()) == make_model()


def test_single_file_is_downloaded_if_the_shards_of_an_index_do_not_exist(server):
    lost = {"weight_map": {"a": "model-00001-of-00009.safetensors"}}
    kept = {name: content for name, content in make_model().items() if not name.startswith("model")}
    server.models[NAME] = kept | {"model.safetensors": b"x"}
    server.models[NAME] |= {"model.safetensors.index.json": json.dumps(lost).encode()}

    assert contents(server.resolve()) == kept | {"model.safetensors": b"x"}


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize(
    "weights",
    [
        ["pytorch_model.bin"],
        ["model_state.pdparams"],
        ["mm_projector.bin"],
        ["adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin"],
        ["lora_config.json", "lora_model_state.pdparams"],
        ["projector/config.json", "projector/model.safetensors", "llm_adapter/adapter_config.json"],
    ],
    ids="bin pdparams projector peft lora xtuner".split(),
)
def test_each_kind_of_weights_is_found_on_each_hub(server, hub, weights):
    server.models[NAME] = {"config.json": b"{}"} | {name: name.encode() for name in weights}

    assert contents(server.resolve(hub)) == server.models[NAME]


@pytest.mark.parametrize("hub", HUBS)
def test_a_folder_without_a_model_is_refused(server, hub):
    server.models[NAME] = {"config.json": b"{}", "README.md": b"x", "weights.h5": b"x"}

    with pytest.raises(CheckpointError, match=r"has no weights in a known format, expected one of model.safetensors"):
        server.resolve(hub)
    server.models[NAME] = {"README.md": b"x", "model.safetensors": b"x"}
    with pytest.raises(HubError, match=r"no config.json"):
        server.resolve(hub)


def test_auto_asks_one_hub_after_the_other(server, monkeypatch):
    own = "own/model"
    monkeypatch.setenv("PADDLEMIX_HUB_URL", f"{server.url}/nowhere")
    monkeypatch.setenv("COMMUNITY_MODEL_PREFIX", "http://127.0.0.1:9/closed")
    server.models[own] = make_model()

    folder = server.resolve(None, name=own)

    assert folder.is_relative_to(Path("cache/models/hf/models--own--model/snapshots").absolute())
    assert server.resolve("auto", name=own) == folder


def test_a_model_that_is_not_found_is_reported_with_every_place(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLEMIX_HUB_URL", "http://127.0.0.1:9/own")

    with pytest.raises(HubError) as error:
        server.resolve("auto", name="nobody/nothing")

    text = str(error.value)
    for part in (
        "model 'nobody/nothing' was not found",
        f"the folder {tmp_path}/nobody/nothing: it does not exist",
        f"the cache {tmp_path}/cache/models and {tmp_path}/hf_cache: no complete copy",
        "http://127.0.0.1:9/own: ConnectionError",
        f"the Paddle community store ({server.url}/plain): no config.json under",
        f"the Hugging Face hub ({server.url}): HTTP status 401 Unauthorized: not there, private or gated",
        f"ModelScope ({server.url}): HTTP status 404",
    ):
        assert part in text
    assert "Connection refused" in text
    assert not Path("cache").exists()


def test_offline_uses_the_cache_and_asks_no_hub(server, monkeypatch):
    folder = server.resolve("modelscope")
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    server.seen.clear()

    assert server.resolve("auto") == folder
    with pytest.raises(
        HubError,
        match=r"(?s)the cache .*no complete copy.*Hugging Face hub .*: not asked, because PADDLEMIX_OFFLINE is set",
    ):
        server.resolve("hf")
    assert server.seen == []


def test_a_block_can_be_kept_off_the_hubs(server):
    with offline(), pytest.raises(HubError, match=r"ModelScope .*: not asked, because nothing is downloaded now"):
        server.resolve("auto")
    assert server.seen == []
    assert server.resolve("auto")


def test_the_hub_comes_from_the_environment_and_an_option_overrides_it(server, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_HUB", "modelscope")

    assert "/models/modelscope/" in str(server.resolve(None))
    assert "/models/paddle/" in str(server.resolve("paddle"))
    monkeypatch.setenv("PADDLEMIX_HUB", f"{server.url}/plain")
    assert f"/models/127.0.0.1-{server.server_port}-plain-" in str(server.resolve(None))


@pytest.mark.parametrize("hub", ["hf", "modelscope"])
def test_each_revision_has_its_own_folder(server, hub):
    server.models[f"{NAME}@v2"] = make_model() | {"tokenizer.model": b"another"}
    first = server.resolve(hub)
    second = server.resolve(hub, revision="v2")

    assert first != second and contents(first) == make_model() and contents(second) == server.models[f"{NAME}@v2"]
    assert (server.resolve(hub), server.resolve(hub, revision="v2")) == (first, second)


def test_a_revision_that_does_not_exist_is_reported(server):
    with pytest.raises(HubError, match="HTTP status 404 Not Found: there is no such revision"):
        server.resolve("hf", revision="v3")
    with pytest.raises(HubError, match="it keeps no revisions, so there is no 'v2'"):
        server.resolve("paddle", revision="v2")
    with pytest.raises(HubError, match=r"'\.\./x' is not the name of a branch"):
        server.resolve("hf", revision="../x")


@pytest.mark.parametrize(
    "name", ["/nowhere/model", "../model", "./model", "a/../b", "a b", "model", "", "a//b", "a/b/c/d/e"]
)
def test_a_text_that_is_not_a_name_is_never_looked_for_on_a_hub(server, name):
    with pytest.raises(HubError, match="does not exist" if name else "the path of the model is empty"):
        server.resolve("auto", name=name)
    assert server.seen == []


def test_unknown_hubs_and_addresses_are_refused(server, monkeypatch):
    with pytest.raises(CheckpointError, match="unknown hub 'github': expected auto, paddle, hf, modelscope or"):
        server.resolve("github")
    with pytest.raises(CheckpointError, match="the hub is 'ftp://x', expected an address that begins with http"):
        server.resolve("ftp://x")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(CheckpointError, match="HF_ENDPOINT is 'file:///etc'"):
        server.resolve("hf")


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_a_redirect(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")

    server.resolve("hf")
    server.resolve("modelscope")

    hub, other = f"127.0.0.1:{server.server_port}", f"localhost:{server.server_port}"
    by_host = {host: {one[3] for one in server.seen if one[4] == host} for host in (hub, other)}
    assert by_host[other] == {None}
    assert by_host[hub] == {"Bearer secret", None}  # None: ModelScope
    assert server.seen[0][1:] == ("list", 0, "Bearer secret", hub)


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/tmp/evil.safetensors", "a/b.safetensors", "..", 3])
@pytest.mark.parametrize("hub", ["hf", "url"])
def test_an_index_cannot_name_files_outside_the_folder(server, hub, shard):
    server.models[NAME]["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shard}}).encode()
    server.models[NAME]["../evil.safetensors"] = b"x"

    with pytest.raises(CheckpointError, match=r"is refused: it names a shard outside its folder|no 'weight_map'"):
        server.resolve(hub)
    assert not Path("cache").exists()


def test_a_list_cannot_write_outside_the_folder(server, tmp_path):
    server.models[NAME] |= {"../../evil.json": b"{}", "/tmp/config.json": b"{}", "processor/../../config.json": b"{}"}

    folder = server.resolve("hf")

    assert contents(folder) == make_model()
    assert {path.parent for path in (tmp_path / "cache").rglob("*.json")} == {
        folder,
        folder / "processor/eval",
    }


def test_an_index_whose_shards_do_not_exist_is_refused(server):
    del server.models[NAME][SHARD]

    with pytest.raises(CheckpointError, match=f"names shards that do not exist: {SHARD}"):
        server.resolve("hf")


def test_a_malformed_list_is_an_error_of_its_hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/api/v1/models/{NAME}/repo/files?x=")
    with pytest.raises(HubError, match=r"Hugging Face hub .*: huggingface_hub raised KeyError: 'id'"):
        server.resolve("hf")


def test_name_in_an_existing_folder_is_taken_for_a_misspelled_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    with pytest.raises(HubError, match=r"was not found\. Looked for"):
        resolve("work_dirs/modle")
    (tmp_path / "work_dirs").mkdir()
    with pytest.raises(HubError, match="work_dirs/modle does not exist"):
        resolve("work_dirs/modle")
    with pytest.raises(HubError, match=r"was not found\. Looked for"):
        resolve("work_dirs/modle", hub="hf")
    with pytest.raises(HubError, match=r"was not found\. Looked for"):  # names of three parts, as PaddleMIX's
        resolve("work_dirs/llava/modle")
