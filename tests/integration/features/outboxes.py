"""Outboxes that tests start in their own process, and observations for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.features import DeliveredObservation
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.client.monitors import Observation
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.outbox.delivery import Outbox
from vfmalign.features.outbox.entries import OutboxEntry
from vfmalign.features.outbox.service import Outboxes
from vfmalign.features.settings import FeaturesSettings, OutboxOptions

ORIGIN = FeatureOrigin(checkpoint_sha256="a" * 64, preprocessing_sha256="b" * 64, input_transform="identity")


class Services:
    """Outboxes of one tenant in this process, as replicas of the feature service have them."""

    def __init__(self, store: ObjectStore, settings: StoreSettings) -> None:
        self._store, self._settings = store, settings
        self._started: list[Outboxes] = []

    def start(self, address: str, store: ObjectStore | None = None, *, sends: bool = True, **options: Any) -> Outbox:
        options = {"poll_s": 0.2, "call_timeout_s": 5.0, "write_timeout_s": 5.0} | options
        settings = FeaturesSettings(
            store=self._settings, monitoring_address=address, outbox=OutboxOptions(**options), _env_file=None
        )
        own = store or self._store
        outboxes = Outboxes(settings, {own.tenant: own})
        self._started.append(outboxes)
        if sends:
            outboxes.start()
        return outboxes.by_tenant[own.tenant]

    async def stop(self) -> None:
        while self._started:
            await self._started.pop().close()


def make(number: int, monitor: str = "m", *, value: float = 1.0, origin: FeatureOrigin = ORIGIN) -> OutboxEntry:
    study = ObservedStudy(observation_id=f"o-{number:04d}", group=f"g-{number:04d}")
    return OutboxEntry(monitor, origin, Observation(study, {"stages.3": np.full(8, value, np.float32)}))


def names(*numbers: int) -> list[str]:
    return [f"o-{number:04d}" for number in numbers]


def describe(delivered: DeliveredObservation) -> tuple[str, str]:
    return delivered.delivery, delivered.reason


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition was not met in time")


async def ask_and_deliver(outbox: Outbox, observed: OutboxEntry) -> tuple[str, str]:
    """Delivers once the monitoring service has answered what `check` asks."""
    check = outbox.check(observed.monitor, observed.origin)
    await asyncio.wait({check})
    return describe(await outbox.deliver(observed, check))


def count(delivery: str, reason: str) -> float:
    labels = {"delivery": delivery, "reason": reason}
    return REGISTRY.get_sample_value("vfmalign_observations_delivered_total", labels) or 0.0
