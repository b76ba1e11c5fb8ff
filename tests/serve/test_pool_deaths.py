"""Workers that die or hang: their jobs fail with the reason, others go on, and a new worker takes their place."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_pool import QUICK, events_of, facts_of, job, make_pool, run, running, until

from paddlemix.serve.errors import ApiError
from paddlemix.serve.protocol import Accepted, Ended, Failed


async def is_ready(pool, num_workers: int = 1) -> bool:
    return len((await pool.status()).workers) == num_workers


async def assert_answers(pool) -> None:
    assert isinstance((await events_of(pool, "say 2"))[-1], Ended)


def test_job_of_a_killed_worker_fails_with_the_signal_and_others_end_well(caplog):
    async def main():
        async with running(num_workers=2) as pool:
            first = (await facts_of(pool, "a"))["worker"]
            other = asyncio.create_task(events_of(pool, "say 30 every 0.01", "b"))
            await asyncio.sleep(0.05)
            died = await events_of(pool, "say 3 every 0.02 die", "a")
            assert isinstance(died[0], Accepted) and isinstance(died[-1], Failed)
            assert (died[-1].status, died[-1].code) == (500, "worker_died")
            assert "ended (signal 9): send the request again" in died[-1].message
            assert isinstance((await other)[-1], Ended)
            await until(lambda: is_ready(pool, 2))
            assert (await pool.status()).num_restarts == 1
            assert (await facts_of(pool, "a"))["worker"] == first

    run(main())
    told = [message.partition(" ")[2][2:] for message in caplog.messages if message.startswith("worker ")]
    assert told[1:] == ["loads the model again", "is ready again"]


def test_without_a_worker_jobs_are_refused_and_those_that_waited_are_answered_later():
    async def main():
        async with running(max_running=1, patience=replace(QUICK, restart=0.5)) as pool:
            tasks = [asyncio.create_task(events_of(pool, "say 1 every 0.02")) for _ in range(6)]
            await asyncio.sleep(0)
            os.kill(pool._keepers[0]._process.process.pid, signal.SIGKILL)
            await until(lambda: is_ready(pool, 0))
            await asyncio.sleep(0.1)
            with pytest.raises(ApiError) as caught:
                await events_of(pool, "say 1")
            assert (caught.value.status, caught.value.code) == (503, "no_worker")
            assert int(caught.value.headers["Retry-After"]) >= 1
            last = [(await task)[-1] for task in tasks]
            assert [type(event) for event in last] == [Failed] * 3 + [Ended] * 3
            await assert_answers(pool)

    run(main())


def test_worker_without_heartbeat_is_killed_and_replaced():
    async def main():
        async with running(patience=replace(QUICK, stuck=1000)) as pool:
            failed = (await events_of(pool, "freeze"))[-1]
            assert failed.code == "worker_died" and "stopped responding" in failed.message
            await until(lambda: is_ready(pool))
            await assert_answers(pool)

    run(main())


def test_time_limit_holds_where_the_worker_ignores_it():
    async def main():
        async with running(patience=replace(QUICK, silence=1000)) as pool:
            began = time.monotonic()
            failed = (await events_of(pool, "hang", seconds=0.2))[-1]
            assert (failed.status, failed.code) == (504, "timeout") and time.monotonic() - began >= 0.4
            await assert_answers(pool)  # which is progress
            await asyncio.sleep(1.0)
            assert (await pool.status()).num_restarts == 0

    run(main())


@pytest.mark.parametrize("word", ["hang", "late"])
def test_worker_without_progress_since_a_timeout_is_killed_while_jobs_wait(word):
    async def main():
        async with running(patience=replace(QUICK, silence=1000)) as pool:
            assert (await events_of(pool, word, seconds=0.2))[-1].code == "timeout"
            await asyncio.sleep(1.0)
            assert (await pool.status()).num_restarts == 0  # nobody waits
            assert (await events_of(pool, "hang"))[-1].code == "worker_died"
            await until(lambda: is_ready(pool))
            await assert_answers(pool)

    run(main())


def test_time_limit_counts_the_wait_for_a_worker():
    async def main():
        async with running(max_running=1) as pool:
            busy = [asyncio.create_task(events_of(pool, "say 1000 every 0.01")) for _ in range(3)]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            failed = (await events_of(pool, "say 1", seconds=0.2))[-1]
            assert (failed.status, failed.code) == (504, "timeout") and time.monotonic() - began < 0.4
            for task in busy:
                task.cancel()

    run(main())


def test_worker_that_cannot_load_again_is_tried_at_growing_intervals(tmp_path, caplog):
    async def main():
        async with running(tmp_path / "once") as pool:
            os.kill(pool._keepers[0]._process.process.pid, signal.SIGKILL)
            await until(lambda: has_restarts(pool, 3))
            assert not (await pool.status()).is_ready
            (tmp_path / "once").unlink()
            await until(lambda: is_ready(pool))
            await assert_answers(pool)

    async def has_restarts(pool, count):
        return (await pool.status()).num_restarts >= count

    run(main())
    lines = [line for line in caplog.messages if "started again" in line]
    assert "worker 0 ended (signal 9) and is started again in 0.05 s" in lines[0]
    assert "the model has gone" in lines[1] and lines[1].endswith("0.1 s") and lines[2].endswith("0.2 s")


def test_signals_to_the_whole_group_do_not_end_a_worker():
    async def main():
        async with running() as pool:
            pid = (await facts_of(pool))["pid"]
            task = asyncio.create_task(events_of(pool, "say 10 every 0.02"))
            await asyncio.sleep(0.05)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
            assert isinstance((await task)[-1], Ended)
            assert os.getsid(pid) != os.getsid(0)  # Ctrl-C in the terminal does not reach it

    run(main())


def test_deaths_leave_no_descriptor_no_process_and_no_task_behind():
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def children() -> set[str]:
        tasks = Path("/proc/self/task").iterdir()
        return {pid for task in tasks for pid in (task / "children").read_text().split()}

    async def main():
        tasks = asyncio.all_tasks()
        pool = make_pool(patience=replace(QUICK, restart=0.001, max_restart=0.001))
        await pool.start()
        before, before_children = None, None
        for number in range(6):
            await events_of(pool, "die")
            await until(lambda: is_ready(pool))
            if number == 0:
                before, before_children = descriptors(), len(children())
        assert descriptors() == before and len(children()) == before_children
        assert (await facts_of(pool))["descriptors"] < 12  # the worker inherits nothing else
        await pool.stop(0)
        assert len(children()) == before_children - 1
        assert asyncio.all_tasks() == tasks

    if not Path("/proc/self/task").is_dir():
        pytest.skip("descriptors are counted in /proc")
    run(main())


def test_stop_ends_a_worker_that_neither_reads_nor_ends(monkeypatch):
    async def main():
        monkeypatch.setattr("paddlemix.serve.workers.worker_process.EXIT_SECONDS", 0.3)
        pool = make_pool(patience=replace(QUICK, silence=1000))
        await pool.start()
        pid = (await facts_of(pool))["pid"]
        os.kill(pid, signal.SIGSTOP)
        reading = asyncio.create_task(anext(pool.answer(job("say 1"), "")))
        await asyncio.sleep(0.05)
        await pool.stop(0)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert (await reading).code == "stopping"

    run(main())
