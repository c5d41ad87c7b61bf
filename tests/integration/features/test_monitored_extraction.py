"""Extract with an observation beside the monitoring service, both as processes with tokens of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.features import callers
from tests.integration.features.conftest import Server
from tests.integration.monitoring import conftest as monitoring_fixtures
from tests.integration.monitoring.conftest import Service
from tests.monitored_model import store_reference

from vfmalign.client import AsyncClient, MonitorReference, MonitorSpec, ObservedStudy
from vfmalign.client.features import StudyFeatures
from vfmalign.client.messages.features import StudyObservation
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.volumes import encode

LAYER = "stages.3"
database_url, environment = monitoring_fixtures.database_url, monitoring_fixtures.environment


@pytest.fixture(scope="module")
def reference(store: ObjectStore, card: ModelCard, expected_features: Any, phantoms: Any) -> str:
    """Features of one phantom, with noise for each patient."""
    return store_reference(store, card, LAYER, expected_features(phantoms[0], [LAYER])[LAYER])


@pytest.fixture
async def monitoring(
    environment: dict[str, str], caller_settings: dict[str, str], python: Any, tmp_path: Path
) -> AsyncIterator[Service]:
    folder = tmp_path / "monitoring"
    folder.mkdir()
    service = await Service(environment | caller_settings, folder, python).start()
    yield service
    await service.kill(signal.SIGTERM)


@pytest.fixture
def features(monitoring: Service, start_server: Callable[..., Server], tmp_path: Path) -> Server:
    token = tmp_path / "token"
    token.write_text(callers.ISSUER.sign("features", sub="features"))
    return start_server(
        VFMALIGN_MONITORING_ADDRESS=monitoring.address,
        VFMALIGN_AUTH__TOKEN_FILE=str(token),
        VFMALIGN_OUTBOX__POLL_S="0.5",
    )


@pytest.fixture
async def client(features: Server, monitoring: Service) -> AsyncIterator[AsyncClient]:
    token = callers.ISSUER.sign("researcher", sub="ada")
    opened = AsyncClient(features_address=features.address, monitoring_address=monitoring.address, token=token)
    yield opened
    await opened.close()


async def test_extractions_are_the_evidence_of_the_monitor_also_after_an_outage(
    client: AsyncClient, monitoring: Service, features: Server, store: ObjectStore, reference: str, phantoms: Any
) -> None:
    await client.monitors.create("m", MonitorSpec(reference=MonitorReference(feature_set_id=reference)))
    volumes = {kind: encode(phantoms[1][kind]) for kind in ("t2w", "dwi", "adc")}

    async def extract(number: int, **fields: Any) -> StudyFeatures:
        study = ObservedStudy(observation_id=f"o-{number}", group=f"g-{number}")
        observation = StudyObservation(monitor_id="m", study=study)
        return await client.features.extract("micro", volumes, observation=observation, **fields)

    async def emptied() -> None:
        for _ in range(1200):
            if not list(store.list(OUTBOX)):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(features.log.read_text())

    first = await extract(0)
    assert first.observation is not None
    assert first.observation.delivery == "queued", first.observation
    await emptied()
    repeated = await extract(0)
    assert repeated.observation is not None
    assert repeated.observation.delivery == "queued"
    assert (await client.monitors.get("m")).origin.preprocessing_sha256 == first.preprocessing_sha256

    # Features of another input transform are not those that it watches.
    other = await extract(100, input_transform="half_resolution")
    for _ in range(20):  # where monitoring answers after the extraction, it is queued
        if other.observation is None or other.observation.delivery != "queued":
            break
        await emptied()
        other = await extract(100, input_transform="half_resolution")
    assert other.observation is not None
    assert (other.observation.delivery, other.observation.reason) == ("dropped", "WRONG_ORIGIN")

    await monitoring.kill()
    answers = [await extract(number) for number in range(1, 6)]
    assert [one.observation.delivery for one in answers if one.observation] == ["queued"] * 5
    await monitoring.start(VFMALIGN_SERVER__GRPC_PORT=monitoring.address.rsplit(":", 1)[1])
    await emptied()
    monitor = await client.monitors.get("m")
    assert monitor.epoch.rows == 6
    assert monitor.outcomes["entered"] == 6
    assert set(monitor.outcomes) <= {"entered", "duplicate"}
    assert "Traceback" not in features.log.read_text()
