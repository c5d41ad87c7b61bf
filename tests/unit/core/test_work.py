"""The work queue: one at a time, bounded, and left by callers who give up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from vfmalign.core import logs, metrics
from vfmalign.core.errors import Exhausted, Unavailable
from vfmalign.core.work import WorkQueue


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
    with pytest.raises(Unavailable, match="takes no more work"):
        await queue.run(lambda: None)
