"""Threads with a number of torch's threads of their own: the caller's, and what later threads take, stays as it was."""

import threading

import pytest
import torch

from vfmalign.features.extraction.threads import open_thread_pool


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def in_a_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("four_threads")
def test_each_has_its_number_and_nobody_else():
    with open_thread_pool(3, 1, "own") as pool:
        gate = threading.Barrier(3)
        found = [pool.submit(lambda: (gate.wait(), torch.get_num_threads())[1]) for _ in range(3)]
        assert [one.result() for one in found] == [1, 1, 1]
        assert torch.get_num_threads() == 4
        assert in_a_new_thread(torch.get_num_threads) == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("own")]


@pytest.mark.usefixtures("four_threads")
def test_what_has_not_begun_is_dropped_when_the_pool_is_left():
    begun, gate, waiting = threading.Event(), threading.Event(), []

    def block():
        begun.set()
        gate.wait()

    def leave():
        with open_thread_pool(1, 1, "own") as pool:
            waiting.extend(pool.submit(block) for _ in range(5))
            begun.wait()
            threading.Timer(0.2, gate.set).start()
            raise RuntimeError("left")

    with pytest.raises(RuntimeError, match="left"):
        leave()
    assert [one.cancelled() for one in waiting] == [False, True, True, True, True]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_a_pool_that_cannot_begin_raises_and_changes_nothing(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"), open_thread_pool(2, 1, "own"):
        pass
    assert torch.get_num_threads() == 4
