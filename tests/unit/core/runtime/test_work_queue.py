"""The work queue: one at a time, bounded, and left by callers who give up."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator

import pytest

from vfmalign.core.domain.errors import Cancelled, Exhausted, Unavailable
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.work_queue import SHORT_PER_STEP, ShutdownRequest, WorkQueue


@pytest.fixture
async def queue() -> AsyncIterator[WorkQueue]:
    result = WorkQueue(size=2, name="test")
    yield result
    result.close()


@pytest.fixture
async def roomy() -> AsyncIterator[WorkQueue]:
    result = WorkQueue(size=20, name="roomy")
    yield result
    result.close()


class Long:
    """Long work whose steps the test lets go on, one at a time; `begun` counts them."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._go_on = threading.Semaphore(0)
        self._at_step = threading.Semaphore(0)
        self.begun = 0
        self.ran: list[int] = []

    def work(self, steps: int) -> str:
        for _ in range(steps):
            self.ran.append(self._queue.run_pending_short_calls())
            self.begun += 1
            self._at_step.release()
            assert self._go_on.acquire(timeout=5)
        return "long"

    async def at_step(self) -> None:
        assert await asyncio.to_thread(self._at_step.acquire, timeout=5)

    def go_on(self) -> None:
        self._go_on.release()


async def started(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 5)


async def test_results_errors_and_context_come_through(queue: WorkQueue) -> None:
    token = logs.request_id.set("request-7")
    assert await queue.run(lambda a, *, b: (a, b, logs.request_id.get()), 1, b=2) == (1, 2, "request-7")
    logs.request_id.reset(token)
    with pytest.raises(ZeroDivisionError):
        await queue.run(lambda: 1 / 0)
    assert queue.depth == 0


async def test_work_runs_one_at_a_time_in_one_thread(queue: WorkQueue) -> None:
    running: list[int] = []
    most = 0

    def work(number: int) -> str:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        threading.Event().wait(0.01)
        running.remove(number)
        return threading.current_thread().name

    names = await asyncio.gather(*(queue.run(work, number) for number in range(3)))
    assert most == 1
    assert len(set(names)) == 1


async def test_a_full_queue_sends_callers_away(queue: WorkQueue) -> None:
    release, running = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        release.wait(5)

    first = asyncio.ensure_future(queue.run(work))
    await started(running)
    waiting = [asyncio.ensure_future(queue.run(lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    assert queue.depth == 3
    assert metrics.REGISTRY.get_sample_value("vfmalign_queue_depth", {"queue": "test"}) == 3
    with pytest.raises(Exhausted, match="queue test: 3 calls") as caught:
        await queue.run(lambda: None)
    assert caught.value.retry_after_s is not None
    release.set()
    await asyncio.gather(first, *waiting)
    assert queue.depth == 0
    await queue.run(lambda: None)


async def test_a_caller_who_gives_up_leaves_the_queue_but_not_the_thread(queue: WorkQueue) -> None:
    release, running, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        release.wait(5)
        done.set()

    first = asyncio.ensure_future(queue.run(work))
    await started(running)
    ran: list[int] = []
    second = asyncio.ensure_future(queue.run(ran.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert queue.depth == 1  # the thread still works
    release.set()
    await started(done)
    await queue.run(lambda: None)
    assert ran == []
    assert queue.depth == 0


async def test_a_closed_queue_is_unavailable_and_drops_what_waits() -> None:
    queue = WorkQueue(size=2, name="closing")
    release, running = threading.Event(), threading.Event()

    def work() -> str:
        running.set()
        release.wait(5)
        return "done"

    first = asyncio.ensure_future(queue.run(work))
    await started(running)
    second = asyncio.ensure_future(queue.run(lambda: None))
    await asyncio.sleep(0)
    queue.close()
    release.set()
    assert await first == "done"
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(Unavailable, match="takes no more work"):
        await queue.run(lambda: None)


async def test_short_work_runs_between_two_steps_of_long_work(roomy: WorkQueue) -> None:
    long = Long(roomy)
    first = asyncio.ensure_future(roomy.run(long.work, 3))
    await long.at_step()
    token = logs.request_id.set("short-1")
    seen = asyncio.ensure_future(roomy.run_short(lambda: (long.begun, logs.request_id.get())))
    logs.request_id.reset(token)
    other = asyncio.ensure_future(roomy.run(lambda: long.begun))
    await asyncio.sleep(0)
    long.go_on()
    assert await seen == (1, "short-1"), "it begins before the next step"
    assert not first.done()
    assert not other.done(), "long work waits for long work"
    await long.at_step()
    long.go_on()
    await long.at_step()
    long.go_on()
    assert (await first, await other) == ("long", 3)
    assert roomy.depth == 0


async def test_long_work_goes_on_however_much_short_work_waits(roomy: WorkQueue) -> None:
    long = Long(roomy)
    first = asyncio.ensure_future(roomy.run(long.work, 4))
    await long.at_step()
    count = 2 * SHORT_PER_STEP + 1
    begun = [asyncio.ensure_future(roomy.run_short(lambda: long.begun)) for _ in range(count)]
    await asyncio.sleep(0)
    assert roomy.depth == count + 1
    for _ in range(3):
        long.go_on()
        await long.at_step()
    long.go_on()
    await first
    assert long.ran == [0, SHORT_PER_STEP, SHORT_PER_STEP, 1]
    after_steps = [await one for one in begun]
    assert after_steps == [1 + position // SHORT_PER_STEP for position in range(count)], "the stated guarantee"
    assert roomy.depth == 0


async def test_short_work_that_fails_or_is_left_does_not_hurt_long_work(roomy: WorkQueue) -> None:
    long = Long(roomy)
    first = asyncio.ensure_future(roomy.run(long.work, 2))
    await long.at_step()
    failing = asyncio.ensure_future(roomy.run_short(lambda: 1 / 0))
    ran: list[int] = []
    left = asyncio.ensure_future(roomy.run_short(ran.append, 1))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert roomy.depth == 2
    long.go_on()
    with pytest.raises(ZeroDivisionError):
        await failing
    await long.at_step()
    long.go_on()
    assert await first == "long"
    assert (ran, long.ran) == ([], [0, 1])
    assert roomy.depth == 0


async def test_short_work_never_pauses(roomy: WorkQueue) -> None:
    long = Long(roomy)
    first = asyncio.ensure_future(roomy.run(long.work, 2))
    await long.at_step()
    order: list[str] = []

    def outer() -> None:
        assert roomy.run_pending_short_calls() == 0
        order.append("outer")

    shorts = [asyncio.ensure_future(roomy.run_short(outer)), asyncio.ensure_future(roomy.run_short(order.append, "in"))]
    await asyncio.sleep(0)
    long.go_on()
    await long.at_step()
    long.go_on()
    await asyncio.gather(first, *shorts)
    assert order == ["outer", "in"]
    await roomy.run_short(outer)
    assert roomy.run_pending_short_calls() == 0, "nothing runs that could pause"


def test_a_signal_requests_a_shutdown():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    shutdown = ShutdownRequest()
    try:
        shutdown.listen()
        shutdown.check()
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert shutdown.is_requested()
    with pytest.raises(Cancelled, match="asked to stop"):
        shutdown.check()
