"""Workers with the bundled model: one is killed during an answer, the other goes on, and answers stay the same."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from fake_pool import run, until

import paddlemix
from paddlemix.conversation.messages import Message
from paddlemix.generate.sampling import SamplingParams
from paddlemix.serve.keeper import Patience
from paddlemix.serve.pool import Pool
from paddlemix.serve.protocol import Delta, Ended, Failed, ImageInput, Job
from paddlemix.serve.settings import Limits, ModelOptions

TINY = Path(paddlemix.__file__).parent / "examples" / "llava" / "tiny"
IMAGE = ImageInput((TINY / "shapes.png").read_bytes())
QUESTION = Message.typed("How many shapes are there?", num_images=1)
JOB = Job("short", SamplingParams(max_new_tokens=12), messages=(QUESTION,), images=(IMAGE,))


async def text_of(pool: Pool, job: Job, session: str) -> tuple[str, object]:
    """Return the text of an answer and its last event."""
    events = [event async for event in pool.answer(job, session)]
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


def pid_of(pool: Pool, job_id: str) -> int:
    """Return the process that has a job."""
    (keeper,) = (keeper for keeper in pool._keepers if job_id in keeper.jobs)
    return keeper._process.process.pid


async def killed_during_an_answer(pool: Pool, job: Job, session: str) -> Failed:
    """Kill the worker after the first token."""
    events = pool.answer(job, session)
    async for event in events:
        if isinstance(event, Delta):
            break
    os.kill(pid_of(pool, job.id), signal.SIGKILL)
    return [event async for event in events][-1]


def test_killed_worker_disturbs_no_other_and_its_successor_answers_alike():
    async def main():
        pool = Pool(ModelOptions(TINY / "model", device="cpu"), Limits(), 2, patience=Patience(restart=0.1))
        await pool.start()
        try:
            assert pool.info.device == "cpu" and pool.info.max_model_len > 1000
            expected, last = await text_of(pool, JOB, "a")
            assert isinstance(last, Ended) and expected
            sampling = SamplingParams(max_new_tokens=300, ignore_eos=True)
            endless = replace(JOB, id="long", sampling=sampling)
            other = asyncio.create_task(text_of(pool, replace(endless, id="other"), "b"))
            failed = await killed_during_an_answer(pool, endless, "a")
            for number in (signal.SIGTERM, signal.SIGINT):  # as to all processes of a service that stops
                os.kill(pid_of(pool, "other"), number)
            assert (failed.status, failed.code) == (500, "worker_died") and "signal 9" in failed.message
            assert (await text_of(pool, replace(JOB, id="short 2"), "a"))[0] == expected
            _, last = await other
            assert isinstance(last, Ended) and last.num_tokens == 300
            await until(lambda: has_both(pool), 60)
            answers = [text_of(pool, replace(JOB, id=name), name) for name in "cdef"]
            assert {text for text, _ in await asyncio.gather(*answers)} == {expected}
        finally:
            await pool.stop(0)

    async def has_both(pool: Pool) -> bool:
        status = await pool.status()
        return len(status.workers) == 2 and all(worker.memory_bytes > 0 for worker in status.workers)

    run(main(), 120)
