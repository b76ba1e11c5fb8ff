"""Jobs wait in order, go to the least busy worker or that of their session, and are refused beyond a limit."""

from __future__ import annotations

import itertools

import pytest

from paddlemix.generate.sampling import SamplingParams
from paddlemix.serve.errors import ApiError
from paddlemix.serve.protocol import Job
from paddlemix.serve.workers.dispatch import FIRST_GUESS, MAX_SESSIONS, Dispatch
from paddlemix.serve.workers.open_job import OpenJob

NUMBERS = itertools.count()


class FakeDesk:
    def __init__(self, number: int, *num_answers: int):
        self.number = number
        self.jobs = {}
        for count in num_answers:
            self.take(open_job(num_answers=count))

    def take(self, one: OpenJob) -> None:
        self.jobs[one.job.id] = one


def open_job(session: str = "", num_answers: int = 1) -> OpenJob:
    return OpenJob(Job(f"j{next(NUMBERS)}", SamplingParams(), num_answers=num_answers), session, 0.0)


def handed_out(dispatch: Dispatch, desks: list[FakeDesk], *sessions: str) -> list[int]:
    """Queue jobs of these sessions and return the numbers of the workers that take them."""
    dispatch.queue.extend(open_job(session) for session in sessions)
    numbers = []
    while (choice := dispatch.next(desks)) is not None:
        choice[1].take(choice[0])
        numbers.append(choice[1].number)
    return numbers


def test_jobs_go_in_turn_to_the_least_busy():
    assert handed_out(Dispatch(4, 10), [FakeDesk(0, 2), FakeDesk(1)], *"abcd") == [1, 1, 0, 1]


def test_idle_workers_take_turns_with_new_sessions():
    dispatch = Dispatch(4, 10)
    numbers = [handed_out(dispatch, [FakeDesk(0), FakeDesk(1), FakeDesk(2)], str(n))[0] for n in range(6)]
    assert numbers == [0, 1, 2, 0, 1, 2]


def test_first_that_came_goes_first():
    dispatch = Dispatch(1, 10)
    jobs = [open_job() for _ in range(3)]
    dispatch.queue.extend(jobs)
    desk = FakeDesk(0)
    assert [dispatch.next([desk])[0] for _ in jobs] == jobs


def test_workers_get_a_few_jobs_more_than_they_run():
    dispatch = Dispatch(4, 10)
    assert len(handed_out(dispatch, [FakeDesk(0), FakeDesk(1)], *["x"] * 20)) == 12
    assert len(dispatch.queue) == 8


@pytest.mark.parametrize(("other", "expected"), [(0, 1), (2, 0), (5, 0)])
def test_session_returns_to_its_worker_unless_that_is_much_busier(other, expected):
    dispatch = Dispatch(8, 10)
    assert handed_out(dispatch, [FakeDesk(0), FakeDesk(1, 1)], "a") == [0]
    assert handed_out(dispatch, [FakeDesk(0, 4), FakeDesk(1, *[1] * other)], "a") == [expected]


def test_only_the_latest_sessions_are_remembered():
    dispatch = Dispatch(4, 10)
    for number in range(MAX_SESSIONS + 10):
        handed_out(dispatch, [FakeDesk(0)], str(number))
    assert len(dispatch._sessions) == MAX_SESSIONS and "0" not in dispatch._sessions


def test_many_answers_weigh_as_many_jobs_and_are_never_kept_back_forever():
    dispatch = Dispatch(4, 10)
    assert handed_out(dispatch, [FakeDesk(0, 5), FakeDesk(1, 1, 1)], "a") == [1]
    dispatch.queue.append(open_job(num_answers=100))
    assert dispatch.next([FakeDesk(0)]) is not None


@pytest.mark.parametrize(
    ("in_worker", "in_queue", "is_refused"),
    [((), 0, False), ((1, 1), 0, False), ((1,) * 4, 0, False), ((1,) * 4, 1, True), ((5,), 2, True)],
)
def test_jobs_are_refused_when_as_many_wait_as_may(in_worker, in_queue, is_refused):
    dispatch = Dispatch(2, 3)
    dispatch.queue.extend(open_job() for _ in range(in_queue))
    if not is_refused:
        dispatch.check_room([FakeDesk(0, *in_worker)])
        return
    dispatch.queue.append(open_job())
    with pytest.raises(ApiError, match="and the limit is 3; try again in") as caught:
        dispatch.check_room([FakeDesk(0, *in_worker)])
    assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) >= 1


def test_jobs_of_many_answers_fill_the_queue_as_many_jobs_do():
    dispatch = Dispatch(8, 64)
    dispatch.queue.extend(open_job(num_answers=16) for _ in range(4))
    with pytest.raises(ApiError, match="the server is busy: 64 answers wait and the limit is 64"):
        dispatch.check_room([FakeDesk(0, *[1] * 8)])
    dispatch.queue.pop()
    dispatch.check_room([FakeDesk(0, *[1] * 8)])


def test_one_answer_that_waits_is_told_in_the_singular():
    dispatch = Dispatch(1, 1)
    dispatch.queue.append(open_job())
    with pytest.raises(ApiError, match="busy: 1 answer waits and the limit is 1;"):
        dispatch.check_room([FakeDesk(0, 1)])


def test_time_to_retry_follows_the_jobs_and_stays_within_a_minute():
    dispatch = Dispatch(2, 10)
    assert dispatch.retry_seconds(4, 1) == 2 * FIRST_GUESS
    for _ in range(100):
        dispatch.note_seconds(0.5)
    assert dispatch.retry_seconds(8, 1) == 3 and dispatch.retry_seconds(8, 2) == 2  # rounded up
    assert dispatch.retry_seconds(0, 1) == 1 and dispatch.retry_seconds(10_000, 1) == 60
