"""The probe of the object store, on a real server and on a port where nothing listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.settings import LogSettings, StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.probe import StoreProbe

TIMEOUT_S = 30.0


def get_last_success(settings: StoreSettings) -> float | None:
    name = "vfmalign_store_last_success_timestamp_seconds"
    return metrics.REGISTRY.get_sample_value(name, {"bucket": settings.bucket})


def count_probes(outcome: str) -> float:
    labels = {"operation": "probe", "outcome": outcome}
    return metrics.REGISTRY.get_sample_value("vfmalign_store_attempts_total", labels) or 0.0


async def probe_until(settings: StoreSettings, holds: Callable[[], bool]) -> None:
    probe = StoreProbe(settings, period_s=0.05)
    probe.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.02)
    finally:
        probe.close()


async def test_an_answer_is_the_last_success(store: ObjectStore, store_settings: StoreSettings) -> None:
    store.ensure_bucket()
    answered, began = count_probes("answered"), time.time()
    await probe_until(store_settings, lambda: count_probes("answered") >= answered + 3)
    last_success = get_last_success(store_settings)
    assert last_success is not None
    assert last_success >= began


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, "STORE_UNAVAILABLE"),
        ({"access_key": "nobody"}, "STORE_REFUSED"),
        ({"bucket": "there-is-none"}, "BUCKET_NOT_FOUND"),
    ],
)
async def test_a_store_that_is_lost_is_logged_once_and_leaves_the_time(
    store_settings: StoreSettings, wrong: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("test", LogSettings())
    settings = store_settings.model_copy(update={"bucket": f"{store_settings.bucket}-lost"} | wrong)
    times: set[float | None] = set()

    def count_attempts() -> float:
        return count_probes("failed") + count_probes("answered")

    before = count_attempts()

    def several_have_failed() -> bool:
        if count_attempts() > before:
            times.add(get_last_success(settings))
        return count_attempts() >= before + 3

    await probe_until(settings, several_have_failed)
    assert len(times) == 1
    lost = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "store_lost" in line]
    assert [(line["level"], line["reason"]) for line in lost] == [("error", reason)]


async def test_a_service_without_a_store_exports_nothing(store_settings: StoreSettings) -> None:
    settings = store_settings.model_copy(update={"endpoint": "", "bucket": "of-nobody"})
    probe = StoreProbe(settings)
    probe.start()
    await asyncio.sleep(0)
    probe.close()
    assert get_last_success(settings) is None
