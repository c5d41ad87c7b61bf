"""Work of the leader: windows, metrics, and the deletion of unused data."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import sqlalchemy as sa
from cachetools import LRUCache

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.monitors import ChannelShift
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import last_sweep, quota_used_ratio
from vfmalign.core.runtime.work_context import WorkContext, current_work
from vfmalign.core.storage.lost_objects import EXTRACT_AGAIN, lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.lease import Term
from vfmalign.database.tables import now
from vfmalign.monitoring import metrics
from vfmalign.monitoring.service import windows
from vfmalign.monitoring.service.evidence import EvidenceKeeper
from vfmalign.monitoring.service.references import MAX_REFERENCE_BYTES, LoadedReference, load_reference
from vfmalign.monitoring.service.repository import PAUSED, MonitorRepository, StoredMonitor
from vfmalign.monitoring.service.snapshots import delete_objects
from vfmalign.monitoring.settings import MonitoringOptions
from vfmalign.monitoring.tables import InputRow, MonitorRow, ObservationRow

_CLEAN_S = 600.0
_UNUSED_S = 24 * 3600.0
"""Minimum age at which an object is deleted that no monitor refers to.
After a time with a wrong database or an old backup, the states that the right database needs must still exist."""
_RETRY_S = 60.0
_YIELD_S = 0.1
_DELETED_INPUTS = 1000
"""Observations deleted per transaction. In SQLite, a long one blocks other calls and the lease renewal."""
_PREFIX = "monitors/"
_log = logs.get(__name__)


@dataclass(frozen=True)
class Tenancy:
    """Resources of one tenant.

    Attributes:
        database: database of its monitors.
        store: object store of the tenant.
        keeper: evidence of its monitors.
        client: client of the MMD service; None if there is no MMD service.
    """

    database: Database
    store: ObjectStore
    keeper: EvidenceKeeper
    client: AsyncClient | None


class Leader:
    """Work that only the leader among the replicas does; see `Leadership`.

    Args:
        term: fences every write.
        tenancies: resources by tenant.
        options: intervals and retention.
        max_monitors: maximum number of monitors per tenant.
        observations_days: age in days at which the rows of observations are deleted; None if they are kept.
    """

    def __init__(
        self,
        term: Term,
        tenancies: Mapping[str, Tenancy],
        options: MonitoringOptions,
        max_monitors: int,
        *,
        observations_days: int | None = None,
    ) -> None:
        self._term, self._tenancies = term, tenancies
        self._observations_days = observations_days
        self._max_monitors = max_monitors
        self._options = options
        self._databases = {name: one.database.guarded_by(term.verify) for name, one in tenancies.items()}
        self._monitors = {name: MonitorRepository(database, 1) for name, database in self._databases.items()}
        self._references: LRUCache[tuple[str, ...], LoadedReference] = LRUCache(
            MAX_REFERENCE_BYTES, lambda reference: reference.size_bytes
        )
        self._not_before: dict[tuple[str, str], float] = {}
        self._unused_since: dict[str, dict[str, float]] = {}
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Runs the loops until `stop`."""
        current_work.set(WorkContext(is_cancelled=self._stopped.is_set))  # threads end between two attempts
        loops = [
            asyncio.create_task(self._repeat(self._options.poll_s, self._compute_windows)),
            asyncio.create_task(self._repeat(self._options.poll_s, self._delete_monitors)),
            asyncio.create_task(self._repeat(_CLEAN_S, self._clean)),
        ]
        try:
            await self._export_always()
        finally:
            for loop in loops:  # the MMD service or the store may not answer for minutes; the next leader starts over
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _export_always(self) -> None:
        """Exports the metrics of the monitors until `stop`, then stops at once: the next leader exports them."""
        try:
            await self._repeat(self._options.poll_s, lambda: asyncio.to_thread(self._export))
        finally:
            _end_export()

    def stop(self) -> None:
        """Ends the loops after their current rounds."""
        self._stopped.set()

    def wake(self) -> None:
        """Does nothing: rounds are short."""

    async def hand_over(self) -> None:
        """Does nothing, because this work has no state. The next leader starts it again."""

    async def _repeat(self, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Repeats work until `stop`. Failed work is tried again in the next round."""
        while not self._stopped.is_set():
            with _logging_failure():
                await work()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)

    def _export(self) -> None:
        try:
            found = {tenant: own.list_all() for tenant, own in self._monitors.items()}
        except VfmalignError:
            if self._term.remaining_s <= 0:  # another process may lead by now, and export newer values
                _end_export()
            raise
        metrics.export_samples([to_sample(tenant, monitor) for tenant, own in found.items() for monitor in own])
        for tenant, own in found.items():
            quota_used_ratio.labels(tenant, "monitors").set(len(own) / self._max_monitors)

    # --- windows ---

    async def _compute_windows(self) -> None:
        for tenant, tenancy in self._tenancies.items():
            if tenancy.client is None:
                continue
            for monitor in await asyncio.to_thread(self._monitors[tenant].list_all):
                key = (tenant, monitor.uid)
                if self._stopped.is_set():
                    return
                if not windows.is_due(monitor) or time.monotonic() < self._not_before.get(key, 0.0):
                    continue
                self._not_before[key] = time.monotonic() + _RETRY_S
                with _logging_failure("window_not_computed", tenant=tenant, monitor=monitor.id):
                    with _counting_failure():  # evidence and windows of other monitors continue
                        await self._compute_window(tenant, tenancy, tenancy.client, monitor)
                    del self._not_before[key]

    async def _compute_window(self, tenant: str, tenancy: Tenancy, client: AsyncClient, monitor: StoredMonitor) -> None:
        reference = await asyncio.to_thread(self._load_reference, tenant, tenancy.store, monitor)
        read = await asyncio.to_thread(
            windows.read_windows, tenancy.database, monitor, reference, self._options.kept_windows
        )
        if not read[0].layers:
            return
        layer = next(iter(monitor.layers))
        moved = np.stack([layers[layer] for layers in read[0].layers])
        channels = await asyncio.to_thread(tenancy.keeper.get_channel_shifts, monitor.id, moved)
        shifts = await windows.compare(client.mmd, monitor, reference, read, self._options.window_timeout_s)
        records = [ChannelShift(channel=one.channel, shift_sd=one.shift_sd, share=one.share) for one in channels]
        await asyncio.to_thread(windows.record_window, self._databases[tenant], monitor, shifts, records)

    def _load_reference(self, tenant: str, store: ObjectStore, monitor: StoredMonitor) -> LoadedReference:
        pinned, spec = monitor.epoch.reference, monitor.spec
        key = (tenant, pinned.feature_set_id, pinned.manifest_sha256, spec.stratum, *monitor.layers)
        if key not in self._references:
            with lost_as("feature_set", pinned.feature_set_id, EXTRACT_AGAIN):  # the service has recorded the digest
                reference = load_reference(store, pinned, spec.layer, spec.descriptive_layers, spec.stratum)
            self._references[key] = reference
        return self._references[key]

    # --- deletion ---

    async def _delete_monitors(self) -> None:
        """Deletes the remaining rows and objects of deleted monitors."""
        for tenant, monitors in self._monitors.items():
            with _logging_failure(tenant=tenant):
                for monitor_id, uid in await asyncio.to_thread(monitors.list_deleted):
                    with _logging_failure("monitor_not_deleted", tenant=tenant, monitor=monitor_id):
                        await self._delete_monitor(tenant, monitor_id, uid)

    async def _delete_monitor(self, tenant: str, monitor_id: str, uid: str) -> None:
        while not self._stopped.is_set():
            started = time.monotonic()
            if await asyncio.to_thread(self._monitors[tenant].delete, monitor_id, uid):
                await asyncio.to_thread(delete_objects, self._tenancies[tenant].store, monitor_id, uid)
                return
            await _yield_database(started)

    async def _clean(self) -> None:
        for tenant, tenancy in self._tenancies.items():
            with _logging_failure(tenant=tenant):
                for monitor_id, uid in await asyncio.to_thread(self._clean_objects, tenant, tenancy):
                    for delete in (self._delete_inputs, self._delete_observations):
                        await self._repeat_deletion(partial(delete, self._databases[tenant], monitor_id, uid))
                last_sweep.labels(tenant, "observations").set_to_current_time()

    async def _repeat_deletion(self, delete: Callable[[], bool]) -> None:
        """Calls `delete` until it returns True."""
        while not self._stopped.is_set():
            started = time.monotonic()
            if await asyncio.to_thread(delete):
                return
            await _yield_database(started)

    def _clean_objects(self, tenant: str, tenancy: Tenancy) -> list[tuple[str, str]]:
        """Deletes old objects that no monitor refers to; returns id and `uid` of the monitors."""
        stored, looked_s = tenancy.store.sizes_bytes(_PREFIX), time.monotonic()
        with tenancy.database.snapshot() as session:
            rows = session.scalars(sa.select(MonitorRow)).all()
        used = {one["key"] for row in rows for one in (row.snapshot, row.earlier_snapshot) if one is not None}
        known = self._unused_since.get(tenant, {})
        since = self._unused_since[tenant] = {key: known.get(key, looked_s) for key in stored.keys() - used}
        for key, since_s in since.items():
            if looked_s - since_s >= _UNUSED_S:
                tenancy.store.delete(key)
        return [(row.id, row.uid) for row in rows]

    def _delete_inputs(self, database: Database, monitor_id: str, uid: str) -> bool:
        """Deletes some features that no restart or window needs any more; returns whether none is left.

        Deletes nothing if the monitor was deleted and created again meanwhile.
        """
        with database.session() as session:
            query = sa.select(MonitorRow).where(MonitorRow.id == monitor_id, MonitorRow.uid == uid)
            monitor = session.scalar(query.with_for_update())
            if monitor is None or monitor.earlier_snapshot is None:
                return True
            last = monitor.status["rows"] - self._options.kept_windows * int(monitor.spec["window_rows"])
            of_window = (InputRow.epoch == monitor.epoch) & (InputRow.row > max(0, last))
            unused = (
                InputRow.monitor_id == monitor.id,
                InputRow.sequence <= monitor.earlier_snapshot["sequence"],
                ~of_window,
            )
            chosen = sa.select(InputRow.sequence).where(*unused).order_by(InputRow.sequence)
            rest = session.scalar(chosen.offset(_DELETED_INPUTS).limit(1))
            part = unused if rest is None else (*unused, InputRow.sequence < rest)
            session.execute(sa.delete(InputRow).where(*part), execution_options={"synchronize_session": False})
            return rest is None

    def _delete_observations(self, database: Database, monitor_id: str, uid: str) -> bool:
        """Deletes the rows of some old observations that no restart replays; returns whether none is left."""
        if self._observations_days is None:
            return True
        with database.session() as session:
            query = sa.select(MonitorRow).where(MonitorRow.id == monitor_id, MonitorRow.uid == uid)
            monitor = session.scalar(query.with_for_update())
            if monitor is None or monitor.earlier_snapshot is None:
                return True
            old = (
                ObservationRow.monitor_id == monitor.id,
                ObservationRow.sequence <= monitor.earlier_snapshot["sequence"],
                ObservationRow.received_at < now() - timedelta(days=self._observations_days),
            )
            chosen = sa.select(ObservationRow.sequence).where(*old).order_by(ObservationRow.sequence)
            part = session.scalars(chosen.limit(_DELETED_INPUTS)).all()
            condition = (ObservationRow.monitor_id == monitor.id, ObservationRow.sequence.in_(part))
            session.execute(
                sa.delete(ObservationRow).where(*condition), execution_options={"synchronize_session": False}
            )
            return len(part) < _DELETED_INPUTS


def _end_export() -> None:
    metrics.export_samples(())
    quota_used_ratio.clear()


async def _yield_database(started: float) -> None:
    """Pauses to let other calls write. SQLite has no queue: a waiting call tries again after up to 0.1 s."""
    await asyncio.sleep(max(_YIELD_S, time.monotonic() - started))


@contextlib.contextmanager
def _logging_failure(event: str = "round_delayed", **fields: str) -> Iterator[None]:
    """Logs an error in the body of the `with` statement. A later round tries again."""
    try:
        yield
    except VfmalignError as error:
        _log.warning(event, error=error, **fields)
    except Exception:
        _log.exception("round_failed", **fields)


@contextlib.contextmanager
def _counting_failure() -> Iterator[None]:
    """Counts a failed window by the class of the error: other services may choose any reason."""
    try:
        yield
    except Exception as error:
        metrics.window_failures.labels(type(error).reason if isinstance(error, VfmalignError) else "INTERNAL").inc()
        raise


def to_sample(tenant: str, monitor: StoredMonitor) -> metrics.MonitorSample:
    """Returns the values that are exported as metrics of a monitor."""
    mmd2 = windows.get_mmd2(monitor)
    alarm = monitor.epoch.alarm
    silence_h = monitor.spec.max_silence_hours
    starts = monitor.last_observed_at, monitor.resumed_at, monitor.created_at
    return metrics.MonitorSample(
        tenant=tenant,
        monitor=monitor.id,
        log_evidence={name: value for name, (value, _) in monitor.status["components"].items()},
        log_threshold={name: value for name, (_, value) in monitor.status["components"].items()},
        mmd2=None if mmd2 is None else mmd2.value,
        alarm=alarm is not None and alarm.acknowledge_time is None,
        paused=monitor.state == PAUSED,
        lag_s=monitor.lag_s,
        last_observation_s=max(filter(None, starts)).timestamp(),
        max_silence_s=silence_h * 3600.0 if silence_h else None,
    )
