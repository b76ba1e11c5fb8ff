"""A pool starts workers, gives them jobs, passes events on, cancels, refuses and stops."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_pool import events_of, facts_of, job, make_pool, run, running, until

from paddlemix.serve.errors import ApiError
from paddlemix.serve.protocol import Accepted, Delta, Ended, Failed, ImageInput

ROOT = Path(__file__).parents[2]


async def start_jobs(pool, prompt: str, count: int, session: str = "") -> list[asyncio.Task]:
    """Start jobs and wait until the pool has them."""
    tasks = [asyncio.create_task(events_of(pool, prompt, session)) for _ in range(count)]
    await asyncio.sleep(0.05)
    return tasks


async def refused(pool, prompt: str = "say 1") -> ApiError:
    with pytest.raises(ApiError) as caught:
        await events_of(pool, prompt)
    return caught.value


def test_events_of_many_jobs_arrive_in_order_and_apart():
    async def main():
        async with running(num_workers=2) as pool:
            assert pool.info.name == "fake"
            return await asyncio.gather(*(events_of(pool, f"say {n}", num_answers=2) for n in range(1, 30)))

    for count, events in enumerate(run(main()), start=1):
        assert isinstance(events[0], Accepted) and len({event.job_id for event in events}) == 1
        kinds = [(type(event), event.index) for event in events[1:]]
        for index in range(2):
            mine = [kind for kind, number in kinds if number == index]
            assert mine[-1] is Ended and set(mine[:-1]) == {Delta}
        assert sum(len(event.token_ids) for event in events if isinstance(event, Delta)) == 2 * count


def test_images_arrive_whole_and_the_worker_has_not_loaded_paddle():
    async def main():
        async with running() as pool:
            images = tuple(ImageInput(os.urandom(1 << 20) * 20) for _ in range(2))
            facts = await facts_of(pool, images=images, seconds=30.0)
            assert facts["bytes"] == 40 << 20 and not facts["paddle"]
            assert 29 < facts["seconds"] <= 30  # what is left of the limit

    run(main())


def test_threads_are_shared_among_workers_and_a_lower_wish_stays(monkeypatch):
    async def threads(num_workers: int) -> int:
        async with running(num_workers=num_workers) as pool:
            return int((await facts_of(pool))["threads"])

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    monkeypatch.delenv("PADDLEMIX_NUM_THREADS")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run(threads(1)) == cores
    assert run(threads(2)) == max(cores // 2, 1)
    if cores > 1:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert run(threads(1)) == 1


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("wrong", ValueError, "is no model: expected config.json; name a model folder"),
        ("missing", ValueError, "No such file or directory"),
        ("bug", OSError, "could not be loaded: RuntimeError: a bug"),
        ("memory", ValueError, "too little memory"),
        ("killed", OSError, "ended .signal 9.; perhaps"),
    ],
)
def test_error_of_loading_arrives_in_one_line_and_ends_all_workers(path, error, text):
    async def main():
        pool = make_pool(path, num_workers=2)
        with pytest.raises(error, match=text) as caught:
            await pool.start()
        assert "\n" not in str(caught.value)
        assert all(keeper._process is None for keeper in pool._keepers)
        assert not (await pool.status()).is_ready

    run(main())


def test_job_while_the_model_is_loaded_is_refused_and_stopping_ends_the_loading():
    async def main():
        pool = make_pool("slow")
        assert (await refused(pool)).code == "loading"
        start = asyncio.create_task(pool.start())
        await asyncio.sleep(0.3)
        error = await refused(pool)
        assert (error.status, error.code) == (503, "loading") and int(error.headers["Retry-After"]) > 0
        await pool.stop(0)
        with pytest.raises(OSError, match="stopped while it loaded"):
            await start

    run(main())


def test_session_stays_with_its_worker_and_others_go_to_the_least_busy():
    async def main():
        async with running(num_workers=2) as pool:
            first = (await facts_of(pool, "a"))["worker"]
            busy = await start_jobs(pool, "say 200 every 0.01", 2, "a")
            assert [len(keeper.jobs) for keeper in pool._keepers][first] == 2
            assert (await facts_of(pool, "a"))["worker"] == first
            assert (await facts_of(pool, "b"))["worker"] == 1 - first
            for task in busy:
                task.cancel()

    run(main())


def test_full_queue_refuses_with_a_time_and_a_closed_reader_makes_room():
    async def main():
        async with running(max_running=1, max_queue=3) as pool:
            tasks = await start_jobs(pool, "say 1000 every 0.01", 4)
            error = await refused(pool)
            assert (error.status, error.code) == (
                429,
                "queue_full",
            ) and "3 answers wait" in error.message
            assert 1 <= int(error.headers["Retry-After"]) <= 60
            tasks[3].cancel()
            await asyncio.sleep(0.02)
            later = asyncio.create_task(events_of(pool, "say 1"))
            for task in tasks[:3]:
                task.cancel()
            assert isinstance((await later)[-1], Ended)

    run(main())


def test_no_queue_at_all_still_lets_free_workers_answer():
    async def main():
        async with running(max_running=1, max_queue=0) as pool:
            assert isinstance((await events_of(pool, "say 1"))[-1], Ended)
            await start_jobs(pool, "say 1000 every 0.01", 1)
            assert (await refused(pool)).code == "queue_full"

    run(main())


def test_little_memory_refuses_with_a_time():
    async def main():
        async with running(min_free_bytes=1 << 60) as pool:
            error = await refused(pool)
            assert (error.status, error.code) == (429, "memory") and int(error.headers["Retry-After"]) >= 1

    run(main())


def test_closing_the_iterator_cancels_in_the_worker():
    async def main():
        async with running() as pool:
            events = pool.answer(job("say 100000 every 0.01"), "")
            assert isinstance(await anext(events), Accepted)
            await until(lambda: _num_running(pool, 1))
            await events.aclose()
            await until(lambda: _num_running(pool, 0))

    async def _num_running(pool, count):
        return (await pool.status()).num_running == count

    run(main())


def test_status_counts_workers_and_jobs_that_wait():
    async def main():
        async with running(num_workers=2, max_running=1) as pool:
            await start_jobs(pool, "say 1000 every 0.01", 9)  # each worker has 1 and 2 more
            status = await pool.status()
            assert status.is_ready and status.num_workers == 2 and len(status.workers) == 2
            assert status.num_queued == 3 and status.num_waiting == 3

    run(main())


def test_slow_reader_stops_no_other_and_gets_everything():
    async def main():
        async with running() as pool:
            slow = pool.answer(job("say 20000"), "")
            await anext(slow)
            for _ in range(20):
                assert isinstance((await events_of(pool, "say 5"))[-1], Ended)
            await until(lambda: _is_idle(pool))
            rest = [event async for event in slow]
            assert sum(len(event.token_ids) for event in rest[:-1]) == 20000 and isinstance(rest[-1], Ended)
            assert len(rest) < 1000  # joined while they waited

    async def _is_idle(pool):
        return not any(keeper.jobs for keeper in pool._keepers)

    run(main())


def test_reader_too_slow_for_its_probabilities_loses_its_job_which_is_cancelled():
    async def main():
        async with running() as pool:
            slow = pool.answer(job("say 100000 logprobs 20 every 0.00001"), "")
            first = await anext(slow)
            await until(lambda: _is_free(pool))
            last = [first, *[event async for event in slow]][-1]
            assert isinstance(last, Failed) and (last.status, last.code) == (408, "slow_client")

    async def _is_free(pool):
        return not any(keeper.jobs or keeper.stats.num_running for keeper in pool._keepers)

    run(main())


def test_host_that_cannot_take_a_job_fails_it_alone():
    async def main():
        async with running() as pool:
            (event,) = await events_of(pool, "refuse")
            assert isinstance(event, Failed) and event.status == 500 and "bug" not in event.message
            assert isinstance((await events_of(pool, "say 1"))[-1], Ended)

    run(main())


def test_stop_lets_running_jobs_finish_and_refuses_new_ones():
    async def main():
        pool = make_pool(max_running=1)
        await pool.start()
        tasks = await start_jobs(pool, "say 5 every 0.05", 4)  # of which three wait
        stop = asyncio.create_task(pool.stop(30))
        await asyncio.sleep(0.01)
        error = await refused(pool)
        assert (error.status, error.code) == (503, "stopping") and "Retry-After" in error.headers
        assert (await pool.status()).is_stopping and not (await pool.status()).is_ready
        await stop
        assert all(isinstance(task.result()[-1], Ended) for task in tasks)

    run(main())


def test_stop_cancels_what_takes_longer_and_hosts_are_closed(tmp_path):
    async def main():
        pool = make_pool(tmp_path / "note", max_running=1)
        await pool.start()
        tasks = await start_jobs(pool, "say 10000 every 0.01", 5)
        began = time.monotonic()
        await pool.stop(0.2)
        assert time.monotonic() - began < 5
        for task in tasks:
            last = task.result()[-1]
            assert isinstance(last, Failed) and (last.status, last.code) == (503, "stopping")

    run(main())
    assert (tmp_path / "note").read_text() == "closed"


def test_worker_does_not_outlive_a_killed_web_process():
    code = (
        "import asyncio, os, sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'serve')!r}]\n"
        "from fake_pool import make_pool, facts_of\n"
        "async def main():\n"
        "    pool = make_pool(num_workers=1)\n"
        "    await pool.start()\n"
        "    print((await facts_of(pool))['pid'], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    for _ in range(250):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":  # nobody to reap it
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")
