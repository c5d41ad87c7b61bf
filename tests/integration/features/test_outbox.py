"""The outbox on a real store, with a MonitoringService over a real socket: what is answered, and what arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.integration.features.outboxes import ORIGIN, Services, count, describe, make, names, until, until_surveyed
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


async def test_an_observation_is_recorded_at_once_and_nothing_is_stored(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    outbox = services.start(monitoring.address)
    await until_surveyed(outbox)
    before = count("recorded", "")
    assert describe(await outbox.deliver(make(1))) == ("recorded", "")
    assert count("recorded", "") == before + 1
    assert monitoring.servicer.get_ids() == names(1)
    (request,) = monitoring.servicer.requests
    assert FeatureOrigin.from_proto(request.origin) == ORIGIN
    assert not list(tenant_store.list(OUTBOX))
    # The same again is the same observation; with other features it is none of the monitor's.
    assert describe(await outbox.deliver(make(1))) == ("recorded", "")
    assert describe(await outbox.deliver(make(1, value=2.0))) == ("dropped", "CONFLICT")


async def test_without_a_monitoring_service_an_observation_is_dropped(services: Services) -> None:
    assert describe(await services.start("").deliver(make(1))) == ("dropped", "NO_MONITORING")


async def test_what_was_queued_while_monitoring_was_away_arrives_in_order_once_it_is_back(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address)
    await until_surveyed(outbox)
    answers = [describe(await outbox.deliver(make(number))) for number in range(70)]
    assert {delivery for delivery, _ in answers} == {"queued"}
    assert answers[0][1] == "UNAVAILABLE"
    assert len(list(tenant_store.list(OUTBOX))) == 70
    monitoring.start()
    answers = [await outbox.deliver(make(number)) for number in range(70, 75)]
    assert not [answer for answer in answers if answer.delivery == "dropped"]
    await until(lambda: len(monitoring.servicer.get_ids()) == 75)
    assert monitoring.servicer.get_ids() == names(*range(75))
    await until(lambda: not outbox.waiting.has("m"))
    assert not list(tenant_store.list(OUTBOX))
    assert describe(await outbox.deliver(make(75))) == ("recorded", "")


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
    await until(lambda: not outbox.waiting.has("m"))
    assert monitoring.servicer.get_ids() == names(1)
    assert describe(await outbox.deliver(make(2))) == ("recorded", "")


async def test_an_observation_of_another_monitor_does_not_wait_for_the_network_while_monitoring_is_away(
    services: Services, monitoring: MonitoringServer
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address, sends=False)
    outbox.waiting.end_survey({}, outbox.waiting.begin_survey())
    await outbox.deliver(make(1))
    monitoring.start()  # unknown to the outbox, whose sender does not run
    assert describe(await outbox.deliver(make(1, "other"))) == ("queued", "UNAVAILABLE")
    assert monitoring.servicer.requests == []


async def test_a_service_that_does_not_answer_in_time_is_not_waited_for(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.servicer.accepts.clear()
    outbox = services.start(monitoring.address, hedge_s=0.05, call_timeout_s=300.0)
    await until_surveyed(outbox)
    assert describe(await outbox.deliver(make(1))) == ("queued", "NO_ANSWER_YET")
    assert describe(await outbox.deliver(make(2))) == ("queued", "WAITS_IN_ORDER")
    monitoring.servicer.accepts.set()
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(1, 2)


async def test_an_answer_that_comes_before_the_write_ends_takes_the_observation_out_of_the_outbox(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitoring.servicer.accepts.clear()
    put, continues = tenant_store.put, asyncio.Event()
    loop = asyncio.get_running_loop()

    def put_late(key: str, data: bytes) -> Any:
        asyncio.run_coroutine_threadsafe(continues.wait(), loop).result(60)
        return put(key, data)

    monkeypatch.setattr(tenant_store, "put", put_late)
    outbox = services.start(monitoring.address, hedge_s=0.02, write_timeout_s=60.0, sends=False)
    outbox.waiting.end_survey({}, outbox.waiting.begin_survey())
    answer = asyncio.create_task(outbox.deliver(make(1)))
    await until(lambda: outbox.waiting.has("m"))
    monitoring.servicer.accepts.set()
    assert describe(await answer) == ("recorded", "")
    assert not outbox.waiting.has("m"), "a later observation would wait for one that is recorded"
    continues.set()
    await until(lambda: not outbox._tasks)
    assert not list(tenant_store.list(OUTBOX))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFound("there is no monitor"), "NOT_FOUND"),
        (PreconditionFailed("another origin", reason="OTHER_ORIGIN"), "OTHER_ORIGIN"),
        (Forbidden("not yours"), "PERMISSION_DENIED"),
    ],
)
async def test_a_refusal_drops_the_observation_with_its_reason(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore, error: VfmalignError, reason: str
) -> None:
    monitoring.servicer.refuse = lambda _: error
    outbox = services.start(monitoring.address)
    await until_surveyed(outbox)
    assert describe(await outbox.deliver(make(1))) == ("dropped", reason)
    assert not list(tenant_store.list(OUTBOX))


@pytest.mark.parametrize(
    "error", [Internal("a bug"), Exhausted("busy"), NotFound("there is no such bucket", reason="BUCKET_NOT_FOUND")]
)
async def test_any_other_error_keeps_the_observation(
    services: Services, monitoring: MonitoringServer, error: VfmalignError
) -> None:
    monitoring.servicer.refuse = lambda _: error
    outbox = services.start(monitoring.address)
    await until_surveyed(outbox)
    assert describe(await outbox.deliver(make(1))) == ("queued", error.reason)
    # What cannot be recorded of one monitor keeps no other waiting.
    monitoring.servicer.refuse = lambda request: error if request.monitor_id == "m" else None
    assert describe(await outbox.deliver(make(2, "n"))) == ("recorded", "")
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
    await until_surveyed(outbox)
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
    await until(lambda: not outbox.waiting.has("m"))
    assert describe(await outbox.deliver(make(5))) == ("recorded", "")
    assert monitoring.servicer.get_ids() == names(0, 1, 2, 5)


async def test_an_outbox_above_a_bound_that_was_lowered_is_emptied(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    outbox = services.start(monitoring.address)
    await until_surveyed(outbox)
    for number in range(10):
        await outbox.deliver(make(number, f"m{number % 2}"))
    await services.stop()
    monitoring.start()
    lower = services.start(monitoring.address, max_observations=2)
    await until_surveyed(lower)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids("m0") == names(0, 2, 4, 6, 8)
    assert monitoring.servicer.get_ids("m1") == names(1, 3, 5, 7, 9)


async def test_a_successor_sends_what_a_process_has_left_before_anything_new(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    first = services.start(monitoring.address, sends=False)
    for number in range(5):
        assert describe(await first.deliver(make(number))) == ("queued", "WAITS_IN_ORDER")
    await services.stop()
    monitoring.start()
    successor = services.start(monitoring.address)
    # Before it has looked at the store, it appends rather than overtakes.
    assert (await successor.deliver(make(5))).delivery == "queued"
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(6))


async def test_a_replica_does_not_overtake_what_another_one_has_stored(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    first, second = (services.start(monitoring.address, sends=False) for _ in range(2))
    second.waiting.end_survey({}, second.waiting.begin_survey())
    for number in range(6):
        outbox = (first, second)[number % 2]
        assert describe(await outbox.deliver(make(number))) == ("queued", "WAITS_IN_ORDER")
    services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(*range(6))


async def test_the_sender_of_a_replica_sends_what_others_have_stored_in_between(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    monitoring.stop()
    sending = services.start(monitoring.address, poll_s=3600.0)
    other = services.start(monitoring.address, sends=False)
    await until_surveyed(sending)
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
    before = count("dropped", "REFUSED_BY_TEST"), count("dropped", "DAMAGED"), count("recorded", "FROM_OUTBOX")
    services.start(monitoring.address)
    await until(lambda: not list(tenant_store.list(OUTBOX)))
    assert monitoring.servicer.get_ids() == names(0, 1, 2, 4, 6, 7)
    after = count("dropped", "REFUSED_BY_TEST"), count("dropped", "DAMAGED"), count("recorded", "FROM_OUTBOX")
    assert after == (before[0] + 1, before[1] + 1, before[2] + 6)


async def test_observations_of_two_origins_are_sent_in_order_and_apart(
    services: Services, monitoring: MonitoringServer, tenant_store: ObjectStore
) -> None:
    other = ORIGIN.model_copy(update={"checkpoint_sha256": "c" * 64})
    writer = services.start(monitoring.address, sends=False)
    for number in range(6):
        await writer.deliver(make(number, origin=other if number in {2, 3} else ORIGIN))
    await services.stop()
    monitoring.servicer.origin = ORIGIN
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


async def test_without_monitoring_and_store_an_observation_is_dropped(
    services: Services, monitoring: MonitoringServer, store_settings: StoreSettings
) -> None:
    gone = ObjectStore(store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), attempts=1)
    outbox = services.start(monitoring.address, gone, sends=False)
    assert describe(await outbox.deliver(make(1))) == ("dropped", "STORE_UNAVAILABLE")
    assert not outbox.waiting.get_monitors()
    # Without the store, what monitoring records needs none.
    outbox.waiting.end_survey({}, outbox.waiting.begin_survey())
    assert describe(await outbox.deliver(make(2))) == ("recorded", "")


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
    assert outbox.waiting.get_monitors() == ["m"]
