"""Tiles formed by several threads: the same sums, in the same order, and nothing left running."""

import threading
import time
from itertools import count

import numpy as np
import pytest
import torch

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import ordered_pool, tiles
from vfmalign.mmd.engine.kernels import gaussian, laplacian
from vfmalign.mmd.engine.rows import Rows
from vfmalign.mmd.engine.tiles import Layout, PairedMatrix, PooledMatrix

CPU = torch.device("cpu")


def nothing():
    pass


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("paired", [False, True])
def test_sums_are_those_of_one_thread_to_the_last_bit(rng, precision, paired, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # a product may round otherwise in fewer of them
    sizes = (120,) if paired else (70, 50)
    rows = [Rows.from_features(torch.from_numpy(rng.normal(size=(120, 6))), precision) for _ in range(2)]
    groups = np.repeat(np.arange(60), 2)
    layout = Layout(sizes, groups, rng.integers(-1, 2, size=(60, 30)).astype(np.int8))

    def sums(threads):
        matrix = PairedMatrix(*rows) if paired else PooledMatrix(rows[0])
        kernels = [gaussian(2.0, 6), laplacian(3.0, 6)]
        return tiles.accumulate(
            matrix, kernels, layout, tile_shape=(7, 14), context=UNLIMITED, squares=True, threads=threads
        )

    for one, several in zip(sums(1), sums(3), strict=True):
        for name in ("rows_NP", "diagonal_N", "within_G", "quadratic_B"):
            np.testing.assert_array_equal(getattr(several, name), getattr(one, name))
        assert several.squares == one.squares > 0.0


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_caller_s_mode_makes_no_difference(rng, mode):
    def sums():
        rows = Rows.from_features(torch.from_numpy(rows_NK), "float32")
        layout = Layout((60, 60), np.arange(120), weights_GB)
        shape = (8, 16)
        return tiles.accumulate(
            PooledMatrix(rows), [gaussian(2.0, 5)], layout, tile_shape=shape, context=UNLIMITED, threads=3
        )[0]

    rows_NK, weights_GB = rng.normal(size=(120, 5)), rng.integers(-1, 2, size=(120, 9)).astype(np.int8)
    with mode():
        found = sums()
    np.testing.assert_array_equal(found.rows_NP, sums().rows_NP)
    np.testing.assert_array_equal(found.quadratic_B, sums().quadratic_B)


def test_a_system_without_threads_says_so(monkeypatch):
    begin = threading.Thread.start

    def start(thread):
        if threading.active_count() > before:
            raise RuntimeError("can't start new thread")
        begin(thread)

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        ordered_pool.reduce_in_order(lambda _: None, lambda *_: None, range(50), context=UNLIMITED, threads=3)
    monkeypatch.undo()
    assert threading.active_count() == before


def test_results_are_added_in_order_however_long_each_takes():
    added = []

    def form(number):
        time.sleep(0.02 if number % 5 == 0 else 0.0)
        return number**2

    ordered_pool.reduce_in_order(form, lambda *found: added.append(found), range(40), context=UNLIMITED, threads=4)
    assert added == [(number, number**2) for number in range(40)]


def test_nobody_runs_far_ahead_of_what_was_added():
    first_may_end, begun = threading.Event(), []

    def form(number):
        begun.append(number)
        if number == 0:
            assert first_may_end.wait(30.0)

    def is_cancelled():
        if len(begun) == 2 * ordered_pool._MAX_AHEAD_PER_THREAD:
            first_may_end.set()

    ordered_pool.reduce_in_order(
        form, lambda *_: None, range(100), context=WorkContext(is_cancelled=is_cancelled), threads=2
    )
    assert first_may_end.is_set(), "all but the first went on to the limit"
    assert sorted(begun) == list(range(100))


@pytest.mark.parametrize("threads", [1, 3])
def test_who_stops_between_two_tasks_leaves_nothing_running(threads):
    formed, calls = [], 0

    def is_cancelled():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError("late")

    def form(number):
        time.sleep(0.005)
        formed.append(number)

    with pytest.raises(TimeoutError, match="late"):
        ordered_pool.reduce_in_order(
            form, lambda *_: None, range(10_000), context=WorkContext(is_cancelled=is_cancelled), threads=threads
        )
    so_far = len(formed)
    assert so_far < 1_000
    assert not [one for one in threading.enumerate() if one.name.startswith("mmd-tile")]
    time.sleep(0.05)
    assert len(formed) == so_far


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("fails_in", ["form", "add"])
def test_what_fails_in_a_thread_is_raised_here(threads, fails_in):
    def fail(number, *_):
        if number == 50:
            raise MemoryError("no room")

    def fine(*_):
        return None

    form, add = (fail, fine) if fails_in == "form" else (fine, fail)
    with pytest.raises(MemoryError, match="no room"):
        ordered_pool.reduce_in_order(form, add, range(10_000), context=UNLIMITED, threads=threads)


def test_threads_share_out_torch_s_own_and_leave_the_caller_s_alone(monkeypatch):
    before, seen = torch.get_num_threads(), set()
    try:
        torch.set_num_threads(6)
        ordered_pool.reduce_in_order(
            lambda _: seen.add(torch.get_num_threads()), lambda *_: None, range(30), context=UNLIMITED, threads=3
        )
        later = []
        one = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        one.start()
        one.join()
        assert (seen, torch.get_num_threads(), later) == ({2}, 6, [6])
        assert ordered_pool.choose_threads(CPU, 1_000) == 6
        assert ordered_pool.choose_threads(CPU, 6 * ordered_pool._MIN_TASKS_PER_THREAD - 1) == 1
        assert ordered_pool.choose_threads(torch.device("cuda"), 1_000) == 1
        torch.set_num_threads(64)
        assert ordered_pool.choose_threads(CPU, 1_000) == ordered_pool._MAX_THREADS
    finally:
        torch.set_num_threads(before)


def test_the_cpu_time_of_work_that_was_stopped_counts_too():
    def form(_):
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    def late():
        if next(calls) == 3:
            raise TimeoutError

    before, calls = ordered_pool.cpu_seconds(), count()
    with pytest.raises(TimeoutError):
        ordered_pool.reduce_in_order(
            form, lambda *_: None, range(10_000), context=WorkContext(is_cancelled=late), threads=2
        )
    assert ordered_pool.cpu_seconds() - before >= 0.02


@pytest.mark.parametrize("threads", [1, 2])
def test_the_cpu_time_of_threads_counts_as_the_caller_s(threads):
    def form(_):
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass

    before = ordered_pool.cpu_seconds()
    ordered_pool.reduce_in_order(form, lambda *_: None, range(20), context=UNLIMITED, threads=threads)
    assert 0.2 <= ordered_pool.cpu_seconds() - before < 2.0
