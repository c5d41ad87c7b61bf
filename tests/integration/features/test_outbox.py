"""The outbox on a real store, with a MonitoringService over a real socket: what is answered, and what arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from cachetools import TTLCache
from structlog.testing import capture_logs
from tests.integration.features.outboxes import (
    ORIGIN,
    Services,
    ask_and_deliver,
    count,
    describe,
    make,
    names,
    until,
)
from tests.observing_service import MonitoringServer, run_monitoring

from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import (
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Internal,
    NotFound,
    PreconditionFailed,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore

Deliver = Callable[..., Any]


@pytest.fixture
def monitoring() -> Iterator[MonitoringServer]:
    with run_monitoring() as server:
        yield server


@pytest.fixture
def tenant_store(store: ObjectStore) -> ObjectStore:
    """A store with an empty outbox."""
    for key in store.list(OUTBOX):
        store.delete(key)
    return store


@pytest.fixture
async def services(tenant_store: ObjectStore, store_settings: StoreSettings) -> AsyncIterator[Services]:
    running = Services(tenant_store, store_settings)
    yield running
    await running.stop()


async def test_a_stored_observation_wakes_the_sender(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    outbox = services.start(monitoring.address, poll_s=3600.0)
    before = count("queued", ""), count("recorded", ""), count("dropped", "CONFLICT")
    for number in (1, 2, 3):
        assert describe(await outbox.deliver(make(number))) == ("queued", "")
        await until(lambda: not list(tenant_store.list(OUTBOX)))
        assert monitoring.servicer.get_ids()[-1:] == names(number)
    assert FeatureOrigin.from_proto(monitoring.servicer.requests[0].origin) == ORIGIN
    # The same again is the same observation; with other features it is none of the monitor's.
    for value in (1.0, 2.0):
        assert describe(await outbox.deliver(make(1, value=value))) == ("queued", "")
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(1, 2, 3)
    after = count("queued", ""), count("recorded", ""), count("dropped", "CONFLICT")
    assert after == (before[0] + 5, before[1] + 4, before[2] + 1)


async def test_without_a_monitoring_service_an_observation_is_dropped(services: Services) -> None:
    assert describe(await services.start("").deliver(make(1))) == ("dropped", "NO_MONITORING")


async def test_what_was_queued_while_monitoring_was_away_arrives_in_order_once_it_is_back(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address)
    answers = [describe(await outbox.deliver(make(number))) for number in range(70)]
    assert set(answers) == {("queued", "")}
    assert len(list(tenant_store.list(OUTBOX))) == 70
    monitoring.start()
    answers = [await outbox.deliver(make(number)) for number in range(70, 75)]
    assert not [answer for answer in answers if answer.delivery == "dropped"]
    await until(lambda: len(monitoring.servicer.get_ids()) == 75)
    assert monitoring.servicer.get_ids() == names(*range(75))
    await until(lambda: not list(tenant_store.list(OUTBOX)))


async def test_other_objects_in_the_outbox_hide_no_observations(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address, max_observations=3, sends=False)
    await outbox.deliver(make(1))
    for number in range(5):
        tenant_store.put(f"{OUTBOX}a-{number}", b"a note that sorts before the monitor")
    monitoring.start()
    outbox = services.start(monitoring.address, max_observations=3)
    await until(lambda: monitoring.servicer.get_ids() == names(1))
    assert describe(await outbox.deliver(make(2))) == ("queued", "")
    await until(lambda: monitoring.servicer.get_ids() == names(1, 2))


async def test_a_service_that_does_not_answer_is_not_waited_for(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.servicer.accepts.clear()
    outbox = services.start(monitoring.address, call_timeout_s=300.0)
    for number in (1, 2):
        check = outbox.check("m", ORIGIN)
        await until(lambda number=number: monitoring.servicer.looks == number)
        assert describe(await outbox.deliver(make(number), check)) == ("queued", "")
    monitoring.servicer.accepts.set()
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(1, 2)


async def test_a_monitor_that_would_refuse_an_observation_is_answered_and_nothing_is_stored(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    outbox = services.start(monitoring.address, sends=False)
    other = ORIGIN.model_copy(update={"checkpoint_sha256": "c" * 64})
    monitoring.servicer.origins = {"n": ORIGIN}
    assert await ask_and_deliver(outbox, make(1)) == ("dropped", "NOT_FOUND")
    assert await ask_and_deliver(outbox, make(1, "n", origin=other)) == ("dropped", "WRONG_ORIGIN")
    assert not list(tenant_store.list(OUTBOX))
    # A refusal is asked for each time, so that a new monitor or reference loses nothing.
    monitoring.servicer.origins = {"m": ORIGIN, "n": other}
    assert await ask_and_deliver(outbox, make(1)) == ("queued", "")
    assert await ask_and_deliver(outbox, make(1, "n", origin=other)) == ("queued", "")


async def test_a_monitor_is_asked_for_again_after_a_minute(services: Services, monitoring: MonitoringServer) -> None:
    outbox, clock = services.start(monitoring.address, sends=False), [0.0]
    outbox._origins = TTLCache(outbox._origins.maxsize, outbox._origins.ttl, timer=lambda: clock[0])
    monitoring.servicer.origins = {"m": ORIGIN}
    for number, (time_s, looks) in enumerate([(0.0, 1), (59.0, 1), (61.0, 2)]):
        clock[0] = time_s
        assert await ask_and_deliver(outbox, make(number)) == ("queued", "")
        assert monitoring.servicer.looks == looks


async def test_a_monitor_that_cannot_be_read_drops_nothing(services: Services, monitoring: MonitoringServer) -> None:
    outbox = services.start(monitoring.address, sends=False)
    assert await ask_and_deliver(outbox, make(1)) == ("queued", "")
    monitoring.stop()
    assert await ask_and_deliver(outbox, make(2)) == ("queued", "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFound("there is no monitor"), "NOT_FOUND"),
        (PreconditionFailed("another origin", reason="OTHER_ORIGIN"), "OTHER_ORIGIN"),
    ],
)
async def test_a_refusal_drops_the_observation_with_its_reason(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore, error: VfmalignError, reason: str
) -> None:
    monitoring.servicer.refuse = lambda _: error
    outbox, before = services.start(monitoring.address), count("dropped", reason)
    assert describe(await outbox.deliver(make(1))) == ("queued", "")
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert count("dropped", reason) == before + 1
    assert monitoring.servicer.get_ids() == []


@pytest.mark.parametrize(
    "error", [Internal("a bug"), Exhausted("busy"), NotFound("there is no such bucket", reason="BUCKET_NOT_FOUND")]
)
async def test_any_other_error_keeps_the_observation(
    services: Services, monitoring: MonitoringServer, error: VfmalignError
) -> None:
    monitoring.servicer.refuse = lambda _: error
    outbox = services.start(monitoring.address)
    await outbox.deliver(make(1))
    await until(lambda: monitoring.servicer.requests)
    # What cannot be recorded of one monitor keeps no other waiting.
    monitoring.servicer.refuse = lambda request: error if request.monitor_id == "m" else None
    await outbox.deliver(make(2, "n"))
    await until(lambda: monitoring.servicer.get_ids("n") == names(2))
    monitoring.servicer.refuse = lambda _: None
    await until(lambda: monitoring.servicer.get_ids() == names(1))


@pytest.mark.parametrize("error", [Unavailable("its state cannot be read"), DeadlineExceeded("it is being stored")])
async def test_a_monitor_for_which_the_service_is_away_keeps_no_other_waiting(
    services: Services, monitoring: MonitoringServer, error: VfmalignError
) -> None:
    writer = services.start(monitoring.address, sends=False)
    for number in range(2):
        await writer.deliver(make(number, f"m{number}"))
    await services.stop()
    monitoring.servicer.refuse = lambda request: error if request.monitor_id == "m0" else None
    services.start(monitoring.address)
    await until(lambda: monitoring.servicer.get_ids("m1"))
    monitoring.servicer.refuse = lambda _: None
    await until(lambda: monitoring.servicer.get_ids("m0"))


async def test_a_full_outbox_drops_and_takes_observations_again_once_it_is_empty(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address, max_observations=3)
    before = count("dropped", "OUTBOX_FULL")
    with capture_logs() as lines:
        answers = [describe(await outbox.deliver(make(number))) for number in range(5)]
    assert [delivery for delivery, _ in answers] == ["queued"] * 3 + ["dropped"] * 2
    dropped = [line for line in lines if line["event"] == "observation_dropped"]
    assert [(line["monitor"], line["reason"]) for line in dropped] == [("m", "OUTBOX_FULL")] * 2
    assert answers[-1] == ("dropped", "OUTBOX_FULL")
    assert count("dropped", "OUTBOX_FULL") == before + 2
    assert len(list(tenant_store.list(OUTBOX))) == 3
    monitoring.start()
    await until(lambda: not outbox.pending.get_monitors())
    assert describe(await outbox.deliver(make(5))) == ("queued", "")
    await until(lambda: monitoring.servicer.get_ids() == names(0, 1, 2, 5))


async def test_an_outbox_above_a_bound_that_was_lowered_is_emptied(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address)
    for number in range(10):
        await outbox.deliver(make(number, f"m{number % 2}"))
    await services.stop()
    monitoring.start()
    services.start(monitoring.address, max_observations=2)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids("m0") == names(0, 2, 4, 6, 8)
    assert monitoring.servicer.get_ids("m1") == names(1, 3, 5, 7, 9)


async def test_a_successor_sends_what_a_process_has_left_before_anything_new(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    first = services.start(monitoring.address, sends=False)
    for number in range(5):
        assert describe(await first.deliver(make(number))) == ("queued", "")
    await services.stop()
    monitoring.start()
    successor = services.start(monitoring.address)
    assert (await successor.deliver(make(5))).delivery == "queued"
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(6))


async def test_a_replica_does_not_overtake_what_another_one_has_stored(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    first, second = (services.start(monitoring.address, sends=False) for _ in range(2))
    for number in range(6):
        outbox = (first, second)[number % 2]
        assert describe(await outbox.deliver(make(number))) == ("queued", "")
    services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(6))


async def test_the_sender_of_a_replica_sends_what_others_have_stored_in_between(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    sending = services.start(monitoring.address, poll_s=3600.0)
    other = services.start(monitoring.address, sends=False)
    for number in range(6):
        assert (await (sending, other)[number % 2].deliver(make(number))).delivery == "queued"
    monitoring.start()
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(6))


async def test_two_replicas_send_the_same_outbox_without_losing_or_doubling(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    first = services.start(monitoring.address, sends=False)
    for number in range(130):
        await first.deliver(make(number))
    for _ in range(2):
        services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(130))


async def test_a_refused_or_damaged_observation_is_dropped_and_the_others_arrive(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    def refuse(request: Any) -> VfmalignError | None:
        ids = {one.study.observation_id for one in request.inline.observations}
        return PreconditionFailed("refused", reason="REFUSED_BY_TEST") if "o-0003" in ids else None

    monitoring.servicer.refuse = refuse
    writer = services.start(monitoring.address, sends=False)
    for number in range(8):
        await writer.deliver(make(number))
    keys = list(tenant_store.list(OUTBOX))
    tenant_store.put(keys[5], b"damaged")
    await services.stop()
    before = count("dropped", "REFUSED_BY_TEST"), count("dropped", "DAMAGED"), count("recorded", "")
    services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(0, 1, 2, 4, 6, 7)
    after = count("dropped", "REFUSED_BY_TEST"), count("dropped", "DAMAGED"), count("recorded", "")
    assert after == (before[0] + 1, before[1] + 1, before[2] + 6)


async def test_observations_of_two_origins_are_sent_in_order_and_apart(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    other = ORIGIN.model_copy(update={"checkpoint_sha256": "c" * 64})
    writer = services.start(monitoring.address, sends=False)
    for number in range(6):
        await writer.deliver(make(number, origin=other if number in {2, 3} else ORIGIN))
    await services.stop()
    monitoring.servicer.origins = {"m": ORIGIN}
    services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(0, 1, 4, 5)


async def test_a_queued_observation_outlives_a_role_that_was_taken_away(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    writer = services.start(monitoring.address, sends=False)
    await writer.deliver(make(1))
    await services.stop()
    monitoring.servicer.refuse = lambda _: Forbidden("your roles do not allow this call")
    services.start(monitoring.address)
    await until(lambda: len(monitoring.servicer.requests) > 1)
    assert len(list(tenant_store.list(OUTBOX))) == 1
    monitoring.servicer.refuse = lambda _: None
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(1)


async def test_without_the_store_an_observation_is_dropped(
    services: Services, monitoring: MonitoringServer, store_settings: StoreSettings
) -> None:
    gone = ObjectStore(store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), attempts=1)
    outbox = services.start(monitoring.address, gone, sends=False)
    assert describe(await outbox.deliver(make(1))) == ("dropped", "STORE_UNAVAILABLE")
    assert not outbox.pending.get_monitors()


async def test_a_caller_that_leaves_does_not_undo_the_write(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    outbox = services.start(monitoring.address, sends=False)
    call = asyncio.create_task(outbox.deliver(make(1)))
    await asyncio.sleep(0)  # lets it begin to write
    assert outbox._tasks
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: not outbox._tasks)
    assert len(list(tenant_store.list(OUTBOX))) == 1
    assert outbox.pending.get_monitors() == ["m"]
