"""Results of pieces of work on several threads are in order, and exceptions are raised."""

import threading

import paddle
import pytest

from paddlemix.models.cpu.threads import in_parallel, limit_threads, num_workers


@pytest.fixture(params=["1", "2", "3"])
def threads(request, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", request.param)
    return int(request.param)


def test_results_are_in_order(threads):
    assert num_workers() == threads
    assert in_parallel(lambda number: number * number, range(20)) == [number * number for number in range(20)]


def test_pieces_run_at_the_same_time(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    barrier = threading.Barrier(2, timeout=30)
    assert len(in_parallel(lambda _: barrier.wait(), range(2))) == 2


def test_an_error_is_raised_to_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda number: 1 // number, [1, 0, 2])


def test_no_thread_computes_gradients(threads):
    weight = paddle.ones([2, 2])
    weight.stop_gradient = False
    assert all(out.stop_gradient for out in in_parallel(lambda x: paddle.matmul(x, weight), [paddle.ones([1, 2])] * 4))
    assert paddle.is_grad_enabled()


def test_a_limit_of_threads_holds_until_the_number_before_is_set_again():
    assert limit_threads(1) == 0  # all threads
    assert limit_threads(0) == 1
    assert limit_threads(0) == 0
