import threading
import time

import pytest

from cnnClassifier.serving.concurrency import ConcurrencyLimiter, checker
from cnnClassifier.serving.errors import RequestError
from tests.waiting import PATIENCE_S, until


def nothing():
    pass


def test_turns_come_in_order_and_one_too_many_is_refused():
    turns, order, hold = ConcurrencyLimiter(1, 2), [], threading.Event()

    def work(name):
        with turns.take(nothing):
            order.append(name)
            hold.wait(PATIENCE_S)

    threads = []
    for name in "abc":
        threads.append(threading.Thread(target=work, args=name, daemon=True))
        threads[-1].start()
        until(lambda: turns.running + turns.waiting == len(threads))
    assert (turns.running, turns.waiting) == (1, 2)
    with pytest.raises(RequestError) as caught, turns.take(nothing):
        pytest.fail("there was no room")
    assert (caught.value.status, caught.value.code, "Retry-After" in caught.value.headers) == (
        503,
        "busy",
        True,
    )
    hold.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (order, turns.running, turns.waiting) == (["a", "b", "c"], 0, 0)


@pytest.mark.parametrize(
    ("seconds", "gone", "status", "code"),
    [(-1, False, 503, "timeout"), (PATIENCE_S, True, 499, "client_gone")],
)
def test_who_waits_too_long_or_leaves_gives_the_place_up(seconds, gone, status, code):
    turns = ConcurrencyLimiter(1, 1)
    check = checker(time.monotonic() + seconds, lambda: gone)
    with turns.take(nothing):
        with pytest.raises(RequestError) as caught, turns.take(check):
            pytest.fail("the slot was taken")
        assert (caught.value.status, caught.value.code, turns.waiting) == (status, code, 0)
    with turns.take(nothing):
        assert turns.running == 1


def test_a_slot_is_free_again_after_an_error():
    turns = ConcurrencyLimiter(1, 0)
    for _ in range(3):
        with pytest.raises(KeyError), turns.take(nothing):
            raise KeyError
    assert turns.running == 0
