"""Checks regularly that the object store answers, independently of the service's own calls.

Errors of the service's own calls do not reveal every outage. If the store hangs, a call takes minutes to fail. If the
service makes no calls, the service does not notice an outage.
"""

from __future__ import annotations

import asyncio

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.store.object_store import ObjectStore

PERIOD_S = 15.0
TIMEOUT_S = 10.0
_LOG = logs.get("store")


class StoreProbe:
    """Exports the time of the object store's last answer.

    Logs when the store stops answering and when it answers again.

    Args:
        settings: settings of the store. If no store is configured, the probe does nothing.
        period_s: pause between two probes.
    """

    def __init__(self, settings: StoreSettings, period_s: float = PERIOD_S) -> None:
        self._settings, self._period_s = settings, period_s
        self._thread = Threads(1, "store-probe")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to probe."""
        if self._settings.endpoint:
            self._task = asyncio.create_task(self._run(), name="store-probe")

    def close(self) -> None:
        """Ends the probes."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        # Connections and a thread of its own, because hanging calls may occupy the connections of the service.
        store = ObjectStore(self._settings, attempts=1, timeout_s=TIMEOUT_S)
        last_success = metrics.store_last_success.labels(store.bucket)
        last_success.set_to_current_time()
        answers = True
        while True:
            try:
                await self._thread.run(store.probe)
            except VfmalignError as error:
                if answers:
                    _LOG.error("store_lost", reason=error.reason, error=error)
                answers = False
            else:
                last_success.set_to_current_time()
                if not answers:
                    _LOG.info("store_back")
                answers = True
            await asyncio.sleep(self._period_s)
