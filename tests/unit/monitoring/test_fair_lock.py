"""The lock of the threads that write to SQLite: in their order, and none for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vfmalign.database.fair_lock import FairLock

WAIT_S = 20.0


def test_threads_get_it_in_the_order_in_which_they_are_asked_for() -> None:
    lock, order = FairLock(), []

    def take(number: int) -> None:
        with lock.hold(WAIT_S):
            order.append(number)

    with ThreadPoolExecutor(5) as pool, lock.hold(WAIT_S):
        for number in range(5):
            pool.submit(take, number)
            while len(lock._waiting) <= number:
                threading.Event().wait(0.001)
    assert order == [0, 1, 2, 3, 4]


def test_a_thread_that_has_its_turn_again_and_again_lets_one_that_waits_come_first() -> None:
    lock, order = FairLock(), []

    def take() -> None:
        with lock.hold(WAIT_S):
            order.append("waited")

    with ThreadPoolExecutor(1) as pool:
        with lock.hold(WAIT_S):
            pool.submit(take)
            while not lock._waiting:
                threading.Event().wait(0.001)
        with lock.hold(WAIT_S):
            order.append("again")
    assert order == ["waited", "again"]


def test_a_turn_that_does_not_come_in_time_keeps_no_other_waiting() -> None:
    lock = FairLock()
    with lock.hold(WAIT_S), pytest.raises(TimeoutError), lock.hold(0.01):
        pass
    with lock.hold(0.01):
        pass
