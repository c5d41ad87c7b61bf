"""Pools of threads: context, results and errors come through, and callers who leave take waiting work with them."""

import asyncio
import gc
import threading
import weakref

import pytest

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import UNLIMITED, current_work, limit_work


@pytest.fixture
def one_thread():
    with Threads(1, "one") as threads:
        yield threads


async def test_results_errors_and_context_come_through(one_thread):
    token = logs.request_id.set("request-7")
    assert await one_thread.run(lambda a, *, b: (a, b, logs.request_id.get()), 1, b=2) == (1, 2, "request-7")
    assert list(one_thread.map(lambda _: logs.request_id.get(), range(2))) == ["request-7"] * 2
    logs.request_id.reset(token)
    with pytest.raises(ZeroDivisionError):
        await one_thread.run(lambda: 1 / 0)


async def test_work_that_waits_leaves_with_its_caller_and_keeps_no_arguments(one_thread):
    class Message:
        """Takes much memory."""

    release, ran = threading.Event(), []
    first = asyncio.ensure_future(one_thread.run(release.wait, 30))
    message = Message()
    reference = weakref.ref(message)
    left = asyncio.ensure_future(one_thread.run(ran.append, message))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    del message, left
    await asyncio.sleep(0)  # the event loop drops the error and its traceback
    gc.collect()
    assert reference() is None
    release.set()
    assert await first
    assert not ran


async def test_work_that_runs_notices_that_its_call_has_ended(one_thread):
    begun, release, ended, causes = threading.Event(), threading.Event(), threading.Event(), []

    def work():
        begun.set()
        assert release.wait(30)
        try:
            current_work.get().checkpoint()
        except Cancelled as error:
            causes.append(error)
        ended.set()

    async def call():
        with limit_work(remaining_s=60):
            await one_thread.run(work)

    task = asyncio.create_task(call())
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    release.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert len(causes) == 1
    assert current_work.get() is UNLIMITED, "the limits are those of the call's task"
