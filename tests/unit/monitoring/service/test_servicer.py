"""The servicer of one tenant: who waits for whom."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from tests.unit.monitoring.service.conftest import ORIGIN, create, draw

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.errors import DeadlineExceeded, NotFound
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime.work_context import WorkContext, work_within
from vfmalign.monitoring.service.servicer import MonitoringServicer
from vfmalign.v1 import monitoring_pb2 as pb

WAIT_S = 20.0


@pytest.fixture
def servicer(process, store):
    watching = Watching("monitoring", 0.01)
    return MonitoringServicer(process.monitors, process.keeper, process.epochs, store, watching=watching)


def make_request(monitor_id, number):
    study = ObservedStudy(observation_id=f"o{number}", group=f"g{number}")
    observation = Observation(study, {"a": np.asarray(draw(1, seed=number)[0])}).to_proto()
    inline = pb.InlineObservations(observations=[observation])
    return pb.ObserveRequest(monitor_id=monitor_id, origin=ORIGIN.to_proto(), inline=inline)


async def test_calls_that_wait_for_one_monitor_hold_up_no_other(servicer, process, store):
    for name in ("m", "other"):
        create(process.monitors, store, name)
        await servicer.Observe(make_request(name, 0), None)
    lock = process.states.get_lock("default", "m")
    lock.acquire()  # as a new reference does while it is stored
    try:
        waiting = [asyncio.create_task(servicer.Observe(make_request("m", number), None)) for number in range(1, 9)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(WAIT_S):
            assert (await servicer.Observe(make_request("other", 1), None)).results[0].row == 2
        assert not any(call.done() for call in waiting)
    finally:
        lock.release()
    assert sorted(one.results[0].row for one in await asyncio.gather(*waiting)) == list(range(2, 10))


async def test_calls_that_are_cancelled_hold_up_no_other_monitor(servicer, process, store):
    for name in ("m", "other"):
        create(process.monitors, store, name)
        await servicer.Observe(make_request(name, 0), None)
    lock = process.states.get_lock("default", "m")
    lock.acquire()  # the first call has a thread, which waits; the others would each take one more
    try:
        for number in range(1, 9):
            call = asyncio.create_task(servicer.Observe(make_request("m", number), None))
            await asyncio.sleep(0.02)
            call.cancel()
        async with asyncio.timeout(WAIT_S):
            assert (await servicer.Observe(make_request("other", 1), None)).results[0].row == 2
    finally:
        lock.release()
    assert (await servicer.Observe(make_request("m", 9), None)).results[0].row == 3


async def test_no_caller_waits_behind_all_calls_of_another_one(servicer, process, store):
    create(process.monitors, store, "m")
    await servicer.Observe(make_request("m", 0), None)
    rows = {}  # the order of the answers is not that of the rows: a thread may be interrupted before it answers

    async def observe(subject, number):
        current_identity.set(Identity(subject, "https://idp.example", frozenset(), frozenset()))
        rows[number] = (await servicer.Observe(make_request("m", number), None)).results[0].row

    lock = process.states.get_lock("default", "m")
    lock.acquire()
    try:
        calls = [asyncio.create_task(observe("eve", number)) for number in range(1, 7)]
        await asyncio.sleep(0.05)
        calls.append(asyncio.create_task(observe("features", 7)))
        await asyncio.sleep(0.05)
    finally:
        lock.release()
    await asyncio.gather(*calls)
    assert (rows[1], rows[7]) == (2, 3), "after the call that ran already"


def test_a_caller_that_has_left_does_not_wait_for_a_monitor(process, store):
    create(process.monitors, store, "m")
    process.observe("m", draw(1))
    lock = process.states.get_lock("default", "m")
    lock.acquire()
    try:
        with work_within(WorkContext(time.monotonic())), pytest.raises(DeadlineExceeded):
            process.observe("m", draw(2)[1:], 1)
    finally:
        lock.release()
    assert process.observe("m", draw(2)[1:], 1)[0]["row"] == 2


async def test_a_watch_ends_with_its_monitor_also_where_another_one_takes_the_id(servicer, process, store):
    first = create(process.monitors, store, "m")
    watch = servicer.WatchMonitor(pb.WatchMonitorRequest(monitor_id="m"), None)
    assert (await anext(watch)).monitor.monitor_id == "m"
    process.monitors.delete("m", first.uid)
    create(process.monitors, store, "m")
    with pytest.raises(NotFound):
        await anext(watch)
