"""Turns of the threads that write to SQLite: in their order, and none for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vfmalign.database.turns import Turns

WAIT_S = 20.0


def test_turns_come_in_the_order_in_which_they_are_asked_for() -> None:
    turns, order = Turns(), []

    def take(number: int) -> None:
        with turns.hold(WAIT_S):
            order.append(number)

    with ThreadPoolExecutor(5) as pool, turns.hold(WAIT_S):
        for number in range(5):
            pool.submit(take, number)
            while len(turns._waiting) <= number:
                threading.Event().wait(0.001)
    assert order == [0, 1, 2, 3, 4]


def test_a_thread_that_has_its_turn_again_and_again_lets_one_that_waits_come_first() -> None:
    turns, order = Turns(), []

    def take() -> None:
        with turns.hold(WAIT_S):
            order.append("waited")

    with ThreadPoolExecutor(1) as pool:
        with turns.hold(WAIT_S):
            pool.submit(take)
            while not turns._waiting:
                threading.Event().wait(0.001)
        with turns.hold(WAIT_S):
            order.append("again")
    assert order == ["waited", "again"]


def test_a_turn_that_does_not_come_in_time_keeps_no_other_waiting() -> None:
    turns = Turns()
    with turns.hold(WAIT_S), pytest.raises(TimeoutError), turns.hold(0.01):
        pass
    with turns.hold(0.01):
        pass
