"""The guards of a run on several machines, on processes that train nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several_nodes import free_port

from paddlemix.train import launch
from paddlemix.train.peer_hub import DIED, FAILED, MISTAKE, STOPPED, Hub, Member, Trouble, differences
from paddlemix.train.peers import order_of

ROOT = Path(__file__).parents[2]
PROCESS = """
import json, os, sys, time
from paddlemix.train.peers import watched_peers
with watched_peers(json.loads(sys.argv[1])):
    {work}
"""
BOUND = 30  # seconds; a death is known in one
SLEEP = "print('works', flush=True); time.sleep(300)"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts processes of two machines, two each, with work (None: not started) and settings."""
    processes = []

    def starts(work: list[str | None], settings: list[dict] | None = None) -> list[subprocess.Popen]:
        ports = [free_port() for _ in work]
        endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)
        for rank, code in enumerate(work):
            if code is None:
                continue
            variables = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_LOCAL_RANK": str(rank % 2), "PADDLE_NNODES": "2"}
            variables |= {
                "PADDLE_TRAINER_ENDPOINTS": endpoints,
                "PYTHONPATH": str(ROOT),
                "PADDLE_LOG_DIR": str(tmp_path),
            }
            values = json.dumps(settings[rank] if settings else {"learning_rate": 1e-3})
            command = [sys.executable, "-c", PROCESS.format(work=code), values]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen(command, env={**os.environ, **variables}, cwd=tmp_path, **pipes))
        return processes

    yield starts
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Wait for the processes; return exit codes and errors."""
    errors = [process.communicate(timeout=BOUND)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_processes_that_finish_at_different_times_end_without_a_word(start):
    codes, errors = ended(start(["pass", "time.sleep(1)", "time.sleep(0.5)", "pass"]))
    assert codes == [0] * 4 and errors == [""] * 4


def test_a_killed_process_ends_the_others_with_its_rank_and_how_to_resume(start):
    processes = start([SLEEP] * 4)
    for process in processes:
        process.stdout.readline()
    time.sleep(1)  # all guards have reached the hub
    processes[2].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    codes, errors = ended(processes)
    assert codes == [-signal.SIGKILL] * 4 and time.monotonic() - begun < BOUND / 2
    for text in errors:
        assert text.startswith("error: rank 2 on node 1 (127.0.0.1) is gone: its process was killed or has crashed")
        assert "the same commands on all machines resume" in text and text.count("\n") == 1


def test_readers_of_data_that_outlive_their_process_do_not_hide_its_end(start):
    forking = (
        "print('works', flush=True); (os.fork() or (os.close(1), os.close(2), time.sleep(20))) and time.sleep(300)"
    )
    processes = start([SLEEP, SLEEP, SLEEP, forking])
    for process in processes:
        process.stdout.readline()
    time.sleep(1)
    processes[3].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    codes, errors = ended(processes)
    assert codes == [-signal.SIGKILL] * 4 and time.monotonic() - begun < 15
    assert all("rank 3 on node 1 (127.0.0.1) is gone" in text for text in errors)


def test_a_mistake_of_one_process_is_the_error_of_all(start):
    codes, errors = ended(start([SLEEP, SLEEP, SLEEP, "raise ValueError('no such file: a.json')"]))
    assert codes == [-signal.SIGKILL] * 3 + [1]
    assert all("rank 3 on node 1 (127.0.0.1) has ended with an error: no such file: a.json" in e for e in errors[:3])
    assert "has ended" not in errors[3]


def test_an_error_that_another_death_causes_is_not_the_one_that_is_shown(start):
    """A collective fails in one process because another was killed."""
    codes, errors = ended(start([SLEEP, "raise RuntimeError('connection reset')", "os.kill(os.getpid(), 9)", SLEEP]))
    assert codes == [-signal.SIGKILL] * 4
    assert all("rank 2 on node 1 (127.0.0.1) is gone" in text and "Traceback" not in text for text in errors)


def test_other_settings_on_one_machine_end_all_with_the_key(start):
    settings = [{"learning_rate": 0.001, "output_dir": "a"}] * 2 + [{"learning_rate": 0.01, "output_dir": "b"}] * 2
    codes, errors = ended(start([SLEEP] * 4, settings))
    assert codes == [-signal.SIGKILL] * 4
    assert all("error: the machines have different settings: learning_rate is 0.0" in text for text in errors)


def test_a_port_that_is_in_use_is_named(start, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(sys.modules[__name__], "free_port", lambda: other.getsockname()[1])
        codes, errors = ended(start([None, SLEEP]))
    assert codes == [-signal.SIGKILL] and "which the launcher chose, cannot be used" in errors[0]


def test_a_run_on_one_machine_is_not_watched():
    variables = {"PADDLE_TRAINER_ENDPOINTS": "10.0.0.1:1,10.0.0.1:2", "PADDLE_TRAINER_ID": "0", "PADDLE_NNODES": "1"}
    assert order_of(variables, {}) is None
    assert order_of({}, {}) is None
    assert order_of({**variables, "PADDLE_NNODES": "2"}, {})["address"] == ["10.0.0.1", 2]


async def beat(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b'{"beat": 1}\n')
        await asyncio.sleep(0.05)


async def heard(hub: Hub, speaking: list[bool]) -> list[dict]:
    """Connect a client of each rank, of which some say nothing after their name; return what each is told."""
    port = free_port()
    running = asyncio.create_task(hub.run(await hub.open("127.0.0.1", port)))

    async def client(rank: int, is_speaking: bool) -> dict:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        hello = {"rank": rank, "first": rank // 2 * 2, "token": hub.token, "facts": {}}
        writer.write(json.dumps(hello).encode() + b"\n")
        beats = asyncio.create_task(beat(writer)) if is_speaking else None
        message = {"beat": 1}
        while "beat" in message:
            line = await reader.readline()
            message = json.loads(line) if line else {}
        if beats is not None:
            beats.cancel()
        writer.close()
        return message

    told = await asyncio.gather(*(client(rank, is_speaking) for rank, is_speaking in enumerate(speaking)))
    await running
    return told


def test_a_machine_that_says_nothing_any_more_is_gone():
    told = asyncio.run(
        heard(Hub(["10.0.0.1"] * 2 + ["10.0.0.2"] * 2, "token", silence=1.0), [True, True, False, False])
    )
    assert told[0] == told[1] and told[0]["end"].startswith(
        "node 1 (10.0.0.2) with ranks 2 and 3 is gone: its launcher has ended; the same commands"
    )


def test_a_process_that_comes_after_the_end_is_told_why():
    async def late() -> dict:
        port, hub = free_port(), Hub(["10.0.0.1"] * 2, "token")
        hub.verdict = {"end": "over", "ranks": [], "kind": "differs"}
        running = asyncio.create_task(hub.run(await hub.open("127.0.0.1", port)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'{"rank": 0, "first": 0, "token": "token", "facts": {}}\n')
        told = [json.loads(await reader.readline()) for _ in range(2)]
        running.cancel()
        return max(told, key=len)

    assert asyncio.run(late())["end"] == "over"


def test_processes_that_do_not_start_are_named_after_the_bound():
    told = asyncio.run(heard(Hub(["10.0.0.1"] * 2 + ["10.0.0.2"] * 2, "token", join=0.3), [True, True]))
    assert told[0]["end"] == "ranks 2 and 3 (10.0.0.2) did not start within 0 seconds: look at the launcher there"


def test_connections_without_the_run_s_token_are_closed():
    async def stranger() -> bytes:
        port, hub = free_port(), Hub(["10.0.0.1"] * 2, "token")
        running = asyncio.create_task(hub.run(await hub.open("127.0.0.1", port)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'{"rank": 0, "first": 0, "token": "other", "facts": {}}\n')
        answer = await reader.read()
        running.cancel()
        return answer + bytes(len(hub.members))

    assert b"end" not in asyncio.run(stranger())


@pytest.mark.parametrize("order", [(0, 2), (2, 0)])
def test_processes_are_compared_in_whatever_order_they_come(order):
    hub = Hub(["a", "a", "b", "b"], "token")
    for rank in order:
        hub.members[rank] = Member(rank, rank, {"settings": {"seed": rank}}, None)
        hub._compare(hub.members[rank])
    assert "seed is 0 for rank 0 on node 0 (a) and 2 for rank 2 on node 1 (b)" in hub.reason()[0]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([(1, FAILED), (2, DIED)], "rank 2 on node 1 (b) is gone"),
        ([(2, DIED), (1, MISTAKE)], "rank 1 on node 0 (a) has ended with an error: text"),
        ([(1, STOPPED), (3, FAILED)], "rank 3 on node 1 (b) has ended with an error: text"),
        ([(1, STOPPED)], "rank 1 on node 0 (a) was stopped: text"),
    ],
)
def test_the_reason_is_the_trouble_that_causes_the_others(kinds, expected):
    members = {rank: Member(rank, rank // 2 * 2, {}, None) for rank in range(4)}
    hub = Hub(["a", "a", "b", "b"], "token", members=members)
    hub.troubles = [Trouble(rank, kind, "text") for rank, kind in kinds]
    assert hub.reason()[0].startswith(expected)


def test_flags_and_numbers_of_a_file_are_the_same_settings():
    assert differences({"settings": {"a": 1e-3, "b": True}}, {"settings": {"a": "0.001", "b": "true"}}, "x", "y") == ""
    text = differences({"versions": {"paddlenlp": "1"}}, {"versions": {}}, "rank 0", "rank 2")
    assert "different versions: paddlenlp is 1 for rank 0 and not set for rank 2" in text


@pytest.mark.parametrize(
    ("master", "expected"),
    [
        ("10.0.0.1", "expected the address of the first machine and a free port there"),
        ("10.0.0.1:http", "expected the address"),
        ("localhost:8090", "write --master 127.0.0.1:8090"),
        ("no-such-machine.invalid:8090", "is not known here"),
    ],
)
def test_wrong_master_is_one_error(capsys, master, expected):
    assert launch.main(["--master", master, "--nnodes", "2", "train.py"]) == 1
    assert expected in capsys.readouterr().err


def test_port_of_another_program_is_one_error(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert launch.main(["--master", f"127.0.0.1:{port}", "--nnodes=2", "train.py"]) == 1
    assert f"port {port} of 127.0.0.1 is in use by another program" in capsys.readouterr().err


def test_npus_without_a_card_are_one_error(capsys, monkeypatch):
    monkeypatch.setenv(launch.XCCL_BACKEND, "npu")  # restored afterwards
    for count in (None, 0):
        monkeypatch.setattr(launch, "num_devices", lambda kind, count=count: count)
        assert launch.main(["--npus", "0,1", "train.py"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: --npus is 0,1: this machine has no npu; ") and error.count("\n") == 1
        assert ("plugin for it is missing" if count is None else "loaded but finds no card") in error


def test_npus_are_counted_and_chosen_for_the_launcher(capsys, monkeypatch):
    monkeypatch.setenv(launch.XCCL_BACKEND, "")
    monkeypatch.delenv(launch.XCCL_BACKEND)
    monkeypatch.delenv("NPU_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(launch, "num_devices", lambda kind: 2)
    monkeypatch.setattr(launch, "run_launcher", lambda words: 0)
    assert launch.main(["--npus", "0,1", "train.py", "--npus", "7"]) == 0
    assert os.environ[launch.XCCL_BACKEND] == "npu"
    assert launch.main(["--npus=0,2", "train.py"]) == 1
    assert "--npus is 0,2: card 2 is not there; paddle finds 2 here" in capsys.readouterr().err


def test_a_machine_that_never_comes_is_an_error_after_a_bound(tmp_path):
    words = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", "2", "--join_timeout", "1", "train.py"]
    command = [sys.executable, "-m", "paddlemix.train.launch", *words]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=BOUND * 4)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("gave up after 1 seconds (--join_timeout)")
    assert "Traceback" not in done.stderr


def test_launcher_gets_its_own_options_and_the_address_that_others_reach(monkeypatch):
    seen = []
    monkeypatch.setattr(
        launch.threading, "Thread", lambda **options: type("Thread", (), {"start": lambda self: None})()
    )
    monkeypatch.setattr(launch, "run_launcher", lambda words: seen.append(words) or 0)
    words = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", "2", "train.py", "--join_timeout", "5"]
    assert launch.main(["--join_timeout=3", *words]) == 0
    assert seen == [["--host", "127.0.0.1", "--log_dir", "log/127.0.0.1", *words]]
