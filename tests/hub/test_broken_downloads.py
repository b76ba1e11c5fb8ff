"""Downloads that break are resumed, checked, and never mistaken for complete ones."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import LIMITS, NAME, SHARD, contents, make_model, wait_until
from huggingface_hub import constants

from paddlemix.hub.resolve import HubError, resolve
from paddlemix.tensor_files.stored import CheckpointError

SIZE = len(make_model()[SHARD])
INDEX = "model.safetensors.index.json"


def no_model_is_found(monkeypatch) -> bool:
    """Return whether nothing resolves without a hub, and nothing in the cache has a model's name."""
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    for hub in ("auto", "paddle"):
        with pytest.raises(HubError, match="no complete copy"):
            resolve(NAME, hub=hub)
    monkeypatch.delenv("PADDLEMIX_OFFLINE")
    named = [path for path in Path("cache/models").glob("*/*/") if not path.name.startswith((".", "models--"))]
    return not named and not list(Path("cache/models/hf").glob("*/refs/*"))


@pytest.mark.parametrize("hub", ["hf", "modelscope", "paddle"])
def test_a_broken_connection_is_resumed_where_it_stopped(server, hub):
    server.faults[SHARD] = iter(["break", "break"])

    assert contents(server.resolve(hub)) == make_model()
    assert [one[2] for one in server.gets(SHARD)] == [0, SIZE // 2, SIZE // 2 + SIZE // 4]


def test_a_connection_that_ends_early_without_a_length_is_resumed_too(server):
    server.faults[SHARD] = iter(["break untold"])

    assert contents(server.resolve("paddle")) == make_model()  # it lists a size, but no hash
    assert [one[2] for one in server.gets(SHARD)] == [0, SIZE // 2]


def test_a_server_that_ignores_ranges_sends_the_whole_file(server):
    server.faults[SHARD] = iter(["break", "no range"])

    assert contents(server.resolve()) == make_model()
    assert len(server.gets(SHARD)) == 2


def test_a_store_without_etags_and_dates_starts_anew(server):
    server.has_hashes = False
    server.faults[SHARD] = iter(["break"])

    assert contents(server.resolve("paddle")) == make_model()
    assert [one[2] for one in server.gets(SHARD)] == [0, 0]


def test_a_store_without_head_requests_is_read_too(server):
    server.has_head = False
    server.faults[SHARD] = iter(["ok", "break"])

    assert contents(server.resolve("paddle")) == make_model()


@pytest.mark.parametrize("path", ["config.json", SHARD])
def test_other_bytes_than_the_hub_lists_are_downloaded_again(server, path):
    server.faults[path] = iter(["corrupt"])

    assert contents(server.resolve()) == make_model()
    assert [one[2] for one in server.gets(path)] == [0, 0]


def test_a_hash_that_a_plain_store_states_is_checked(server):
    server.has_md5 = True
    server.faults[SHARD] = iter(["corrupt"])

    assert contents(server.resolve("paddle")) == make_model()


@pytest.mark.parametrize(
    ("path", "fault", "message"),
    [
        (SHARD, "corrupt", r"its sha256 hash is [0-9a-f]{64}, the hub lists [0-9a-f]{64}"),
        ("config.json", "corrupt", r"its git hash is [0-9a-f]{40}, the hub lists [0-9a-f]{40}"),
        (SHARD, "short", f"file should be of size {SIZE} but has size {SIZE // 2}"),
        (SHARD, "500", "HTTP status 500"),
        (SHARD, "404", "HTTP status 404"),
        (SHARD, "silent", "timed out"),
    ],
)
def test_a_lasting_fault_is_an_error_and_leaves_no_model(server, monkeypatch, path, fault, message):
    server.faults[path] = itertools.repeat(fault)
    if fault == "silent":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    limits = replace(LIMITS, max_retries=1)

    with pytest.raises(HubError, match=rf"{NAME} from the Hugging Face hub .* broke off: {path}: .*{message}"):
        server.resolve(limits=limits)
    # huggingface_hub may try 6 times by itself
    assert len(server.gets(path)) in {"404": (1,), "500": (2, 12), "silent": (2, 12)}.get(fault, (2,))
    assert no_model_is_found(monkeypatch)


def test_attempts_that_bring_new_bytes_are_not_counted(server):
    server.faults[SHARD] = iter(["break"] * 4)

    assert contents(server.resolve(limits=replace(LIMITS, max_retries=1, stall_bytes=5000))) == make_model()
    assert len(server.gets(SHARD)) == 5


def test_passing_faults_of_a_server_are_retried(server):
    server.faults[SHARD] = iter(["500", "silent", "500"])

    assert contents(server.resolve()) == make_model()


def test_a_slow_server_is_waited_for(server):
    server.pause = 0.25  # so that the whole file takes longer than one part of it may
    server.faults[SHARD] = iter(["slow"])

    assert contents(server.resolve()) == make_model()
    assert len(server.gets(SHARD)) == 1


@pytest.mark.parametrize("hub", ["hf", "paddle"])
def test_the_next_call_resumes_where_a_failed_one_stopped(server, monkeypatch, hub):
    server.faults[SHARD] = itertools.chain(["break"], itertools.repeat("404"))
    with pytest.raises(HubError, match="What was downloaded is kept: run the same command again to continue"):
        server.resolve(hub)
    assert no_model_is_found(monkeypatch)
    server.seen.clear()
    server.faults.clear()

    assert contents(server.resolve(hub)) == make_model()
    assert [one[2] for one in server.gets(SHARD)] == [SIZE // 2]
    assert server.gets("config.json") == [] and server.gets("tokenizer.model") == []
    assert not list(Path("cache").rglob("*.part*"))


@pytest.mark.parametrize("hub", ["hf", "paddle"])
def test_two_versions_of_a_model_never_mix(server, hub):
    server.faults[SHARD] = itertools.chain(["break"], itertools.repeat("404"))
    with pytest.raises(HubError):
        server.resolve(hub)
    server.faults.clear()
    changed = {name: bytes(reversed(content)) for name, content in make_model().items() if name.endswith("tensors")}
    server.models[NAME] |= changed  # of the same size

    assert contents(server.resolve(hub)) == make_model() | changed
    assert not list(Path("cache").rglob("*.partial"))


def test_a_file_that_changes_during_the_download_is_downloaded_anew(server):
    changed = bytes(reversed(make_model()[SHARD]))

    def break_and_change():
        yield "break"
        server.models[NAME][SHARD] = changed
        yield "ok"

    server.faults[SHARD] = break_and_change()

    assert contents(server.resolve("paddle"))[SHARD] == changed


PROCESS = f"""
import sys
from huggingface_hub import constants
from paddlemix.hub.resolve import resolve
from paddlemix.hub.limits import HubLimits
constants.DOWNLOAD_CHUNK_SIZE = 1000
print(resolve({NAME!r}, hub=sys.argv[1], limits=HubLimits(retry_seconds=0.01)))
"""


def start_process(hub: str, errors: Path) -> subprocess.Popen:
    """Start a download, of which standard error goes to a file."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_DOWNLOAD_TIMEOUT": "120"}
    with errors.open("w") as file:
        command = [sys.executable, "-c", PROCESS, hub]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True)


def test_two_processes_at_once_download_once(server, tmp_path):
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    wait = "another process is downloading"

    def when_one_waits():
        wait_until(lambda: any(wait in log.read_text() for log in logs))
        yield "ok"

    server.faults["config.json"] = when_one_waits()
    processes = [start_process("hf", log) for log in logs]

    folders = {Path(process.communicate(timeout=600)[0].strip()) for process in processes}

    results = [log.read_text() for log in logs]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len(folders) == 1 and contents(folders.pop()) == make_model()
    # each process also reads the index once, for the names of the shards
    assert all(len(server.gets(path)) == 1 for path in make_model() if path != INDEX)
    assert sum(wait in errors for errors in results) == 1
    assert sum(f"downloading {NAME} from" in errors for errors in results) == 1


def test_a_killed_process_leaves_no_model_and_no_lock(server, tmp_path, monkeypatch):
    server.pause = 0.5  # it is killed seconds before it would be done
    server.faults[SHARD] = iter(["slow"])
    process = start_process("hf", tmp_path / "killed.log")
    wait_until(lambda: server.num_sent > SIZE // 5)

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)

    assert no_model_is_found(monkeypatch)
    server.seen.clear()
    assert contents(server.resolve()) == make_model()
    (again,) = server.gets(SHARD)
    assert again[2] > 0
    assert server.gets("config.json") == []


@pytest.mark.parametrize("hub", ["hf", "modelscope"])
def test_only_files_that_were_lost_or_cut_in_the_cache_are_downloaded_again(server, monkeypatch, hub):
    folder = server.resolve(hub)
    (folder / "config.json").unlink()
    (folder / SHARD).write_bytes(b"cut")
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    with pytest.raises(HubError, match="no complete copy"):
        server.resolve(hub)
    monkeypatch.delenv("PADDLEMIX_OFFLINE")
    server.seen.clear()

    assert server.resolve(hub) == folder
    assert contents(folder) == make_model()
    # in huggingface_hub's cache only the link to config.json was lost
    lost = [SHARD] if hub == "hf" else ["config.json", SHARD]
    assert sorted(one[1] for one in server.gets() if one[1] != INDEX) == lost


def test_a_folder_without_a_marker_is_not_changed(server):
    folder = server.resolve("modelscope")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")

    with pytest.raises(CheckpointError, match=r"is in the way: it is not a complete download. Remove it"):
        server.resolve("modelscope")
    assert contents(folder) == {"mine.txt": b"precious"}


def test_a_full_disk_is_reported_before_anything_is_downloaded(server, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    with pytest.raises(
        CheckpointError, match=r"no room for this model .*PADDLEMIX_CACHE.*: [\d.]+ [kM]B to come, 1\.0 kB are free"
    ):
        server.resolve()
    assert server.gets(SHARD) == []


def test_a_disk_that_fills_up_is_reported_and_the_bytes_are_kept(server, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        with pytest.raises(CheckpointError, match=r"no room for this model .*what was downloaded is kept"):
            server.resolve()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert no_model_is_found(monkeypatch)
    server.seen.clear()

    assert contents(server.resolve()) == make_model()
    assert server.gets(SHARD)[0][2] > 0


def test_a_cache_that_cannot_be_written_is_reported(server, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")

    with pytest.raises(HubError, match=r"cannot write to the cache .*set PADDLEMIX_CACHE to a folder of yours"):
        server.resolve()


def test_a_download_states_its_hub_and_size(server, caplog):
    folder = server.resolve()

    hub = f"the Hugging Face hub ({server.url})"
    assert caplog.messages == [
        f"looking for {NAME} at {hub}",
        f"downloading {NAME} from {hub}: 0.3 MB in 7 files, to {folder.parents[1]}",
    ]
