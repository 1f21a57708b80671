import threading

import pytest

from cnnClassifier.serving.concurrency import ConcurrencyLimiter, make_check
from cnnClassifier.serving.errors import RequestError
from tests.waiting import PATIENCE_S, until


def no_check():
    pass


def test_slots_are_given_in_order_and_a_full_queue_refuses():
    limiter = ConcurrencyLimiter(max_concurrent=1, max_queued=2)
    order = []
    finish = threading.Event()

    def work(name):
        with limiter.slot(no_check):
            order.append(name)
            finish.wait(PATIENCE_S)

    threads = []
    for name in "abc":
        thread = threading.Thread(target=work, args=name, daemon=True)
        thread.start()
        threads.append(thread)
        until(lambda: limiter.running + limiter.waiting == len(threads))
    assert (limiter.running, limiter.waiting) == (1, 2)
    with pytest.raises(RequestError) as caught, limiter.slot(no_check):
        pytest.fail("the queue was full")
    assert (caught.value.status, caught.value.code) == (503, "busy")
    assert "Retry-After" in caught.value.headers
    finish.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (order, limiter.running, limiter.waiting) == (["a", "b", "c"], 0, 0)


@pytest.mark.parametrize(
    ("timeout_s", "disconnected", "status", "code"),
    [(-1, False, 503, "timeout"), (PATIENCE_S, True, 499, "client_gone")],
)
def test_a_request_that_times_out_or_disconnects_leaves_the_queue(
    timeout_s, disconnected, status, code
):
    limiter = ConcurrencyLimiter(max_concurrent=1, max_queued=1)
    check = make_check(timeout_s, lambda: disconnected)
    with limiter.slot(no_check):
        with pytest.raises(RequestError) as caught, limiter.slot(check):
            pytest.fail("the slot was taken")
        assert (caught.value.status, caught.value.code) == (status, code)
        assert limiter.waiting == 0
        limiter.refuse_waiting()
        with pytest.raises(RequestError, match="is stopping") as caught, limiter.slot(no_check):
            pytest.fail("the slot was taken")
        assert (caught.value.status, caught.value.code) == (503, "busy")
    for _ in range(3):  # an exception frees the slot
        with pytest.raises(KeyError), limiter.slot(no_check):
            raise KeyError
    assert limiter.running == 0


def test_a_request_with_many_images_lets_others_in_between():
    limiter = ConcurrencyLimiter(max_concurrent=1, max_queued=1)
    order = []

    def send_one():
        with limiter.slot(no_check):
            order.append("other")

    other = threading.Thread(target=send_one, daemon=True)
    with limiter.slot(no_check):
        limiter.yield_slot(no_check)  # nobody waits
        order.append("first image")
        other.start()
        until(lambda: limiter.waiting)
        limiter.yield_slot(no_check)
        order.append("second image")
        assert (limiter.running, limiter.waiting) == (1, 0)
    other.join(PATIENCE_S)
    assert order == ["first image", "other", "second image"]
    assert limiter.running == 0


def test_a_request_may_end_while_it_lets_others_in():
    limiter = ConcurrencyLimiter(max_concurrent=1, max_queued=1)
    finish = threading.Event()

    def send_one():
        with limiter.slot(no_check):
            finish.wait(PATIENCE_S)

    other = threading.Thread(target=send_one, daemon=True)
    with pytest.raises(RequestError, match="took too long"), limiter.slot(no_check):
        other.start()
        until(lambda: limiter.waiting)
        limiter.yield_slot(make_check(-1, lambda: False))
    assert (limiter.running, limiter.waiting) == (1, 0)
    finish.set()
    other.join(PATIENCE_S)
    assert limiter.running == 0
