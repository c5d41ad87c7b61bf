"""The work queue: one at a time, bounded, and left by callers who give up."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from vfmalign.core.domain.errors import Cancelled, Exhausted, Unavailable
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.work_queue import ShutdownRequest, WorkQueue


@pytest.fixture
async def queue() -> AsyncIterator[WorkQueue]:
    result = WorkQueue(size=2, name="test")
    yield result
    result.close()


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
    with pytest.raises(Unavailable, match="accepts no more work"):
        await queue.run(lambda: None)


async def test_a_call_that_was_left_does_not_keep_its_arguments(queue: WorkQueue) -> None:
    class Features:
        """Takes much memory."""

    release, running = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        release.wait(5)

    first = asyncio.ensure_future(queue.run(work))
    await started(running)
    features = Features()
    reference = weakref.ref(features)
    left = asyncio.ensure_future(queue.run(lambda argument: None, features))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    del features, left
    await asyncio.sleep(0.01)  # the event loop drops the error and its traceback
    gc.collect()
    assert not first.done()
    assert reference() is None, "the executor still holds the call, but not what it was called with"
    release.set()
    await first


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
