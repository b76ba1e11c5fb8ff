"""Events of a job wait for their reader, joined when there are many."""

from __future__ import annotations

import asyncio

import pytest

from paddlemix.generate.sampling import SamplingParams
from paddlemix.serve.protocol import Accepted, Delta, Ended, Failed, ImageInput, Job, TokenLogprob
from paddlemix.serve.workers.open_job import MAX_LOGPROBS, MAX_SEPARATE, OpenJob


def make(num_answers: int = 1, seconds: float | None = None) -> OpenJob:
    images = (ImageInput(b"image"),)
    return OpenJob(Job("j", SamplingParams(), images=images, num_answers=num_answers, seconds=seconds), "", 100.0)


def taken(open_job: OpenJob) -> list:
    async def main():
        events = []
        while (event := await open_job.next()) is not None:
            events.append(event)
        return events

    return asyncio.run(asyncio.wait_for(main(), 10))


def test_few_events_are_kept_apart():
    open_job = make()
    events = [Accepted("j", 3), Delta("j", 0, "a", (1,)), Delta("j", 0, "b", (2,)), Ended("j", 0, "stop", 2)]
    for event in events:
        open_job.put(event)
    assert open_job.is_done and taken(open_job) == events


@pytest.mark.parametrize("num_answers", [1, 3])
def test_many_waiting_deltas_are_joined_for_each_answer_in_order(num_answers):
    open_job = make(num_answers)
    one = TokenLogprob(1, "x", b"x", -0.5)
    for number in range(1000):
        for index in range(num_answers):
            open_job.put(Delta("j", index, chr(97 + number % 26), (number,), (one,)))
    for index in range(num_answers):
        open_job.put(Ended("j", index, "stop", 1000))
    events = taken(open_job)
    assert len(events) <= MAX_SEPARATE + 2 * num_answers
    for index in range(num_answers):
        mine = [event for event in events if event.index == index]
        deltas = mine[:-1]
        assert isinstance(mine[-1], Ended)
        assert "".join(delta.text for delta in deltas) == "".join(chr(97 + number % 26) for number in range(1000))
        assert [number for delta in deltas for number in delta.token_ids] == list(range(1000))
        assert sum(len(delta.logprobs) for delta in deltas) == 1000


def test_reader_in_between_loses_nothing():
    async def main():
        open_job, texts, sent = make(2), ["", ""], ["", ""]
        for number in range(3000):
            index, letter = number % 2, chr(97 + number % 26)
            open_job.put(Delta("j", index, letter, (number,)))
            sent[index] += letter
            if number % 3 == 0 or number % 500 > 400:
                event = await open_job.next()
                texts[event.index] += event.text
        for index in range(2):
            open_job.put(Ended("j", index, "stop", 1500))
        while (event := await open_job.next()) is not None:
            if isinstance(event, Delta):
                texts[event.index] += event.text
        assert texts == sent

    asyncio.run(main())


def test_too_many_waiting_probabilities_end_the_job():
    open_job = make()
    top = (TokenLogprob(1, "x", b"x", -0.5),) * 20
    num_deltas = 0
    while not open_job.is_done:
        open_job.put(Delta("j", 0, "x", (1,), (TokenLogprob(1, "x", b"x", -0.5, top),)))
        num_deltas += 1
    assert open_job.is_overflowing and num_deltas == MAX_LOGPROBS // 21 + 1
    (event,) = taken(open_job)
    assert isinstance(event, Failed) and event.status == 408


def test_nothing_follows_the_last_event():
    open_job = make(2)
    open_job.put(Ended("j", 0, "stop", 1))
    assert not open_job.is_done
    open_job.fail(500, "worker_died", "x")
    open_job.put(Ended("j", 1, "stop", 1))
    open_job.fail(503, "stopping", "y")
    assert [type(event) for event in taken(open_job)] == [Ended, Failed]


def test_worker_gets_what_is_left_of_the_time_and_images_are_let_go():
    open_job = make(seconds=30.0)
    job = open_job.hand_over(110.0)
    assert job.seconds == 20 and job.images and not open_job.job.images
    assert make(seconds=30.0).hand_over(1000.0).seconds == 0
    assert make().hand_over(110.0).seconds is None


def test_time_limit_of_the_message_is_that_of_the_request():
    for end in (OpenJob.fail_late, lambda job: job.put(Failed("j", 504, "not after 1.9996 seconds", code="timeout"))):
        open_job = make(seconds=2.0)
        open_job.hand_over(100.0004)
        end(open_job)
        (event,) = taken(open_job)
        assert (event.status, event.message) == (504, "the answer was not complete after 2 seconds")
