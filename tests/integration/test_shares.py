"""A small client beside a crowd of another tenant: how many of its calls are served, by real services."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bench.endpoint.shares import (
    COMPUTE,
    EXTRACT,
    TENANTS,
    Crowd,
    Served,
    call,
    create_comparison,
    create_study,
    publish_models,
    running_tenants,
)
from tests.token_issuer import TokenIssuer

from vfmalign.core.storage.store.object_store import ObjectStore

SECONDS = 3.0
PLACES = 4
CALLS = 40


async def serve(port: int, issuer: TokenIssuer, method: str, request: bytes) -> tuple[Served, Served]:
    """Returns what became of the calls of a crowd, and of those of a small client that waits as it is told."""
    crowd, small = (
        Crowd(port, method, request, tenant, [issuer.sign("researcher", sub=tenant)], calls, SECONDS, waits=waits)
        for tenant, calls, waits in zip(TENANTS, (CALLS, 1), (False, True), strict=True)
    )
    return tuple(await asyncio.gather(call(crowd), call(small)))


def check(crowd: Served, small: Served) -> None:
    assert crowd.seconds, "the crowd is served as well"
    assert crowd.failures["QUEUE_FULL"], "and has more calls than there are places"
    assert set(crowd.failures) | set(small.failures) <= {"QUEUE_FULL"}
    assert small.seconds
    assert small.share >= 0.95, small.failures


async def test_a_small_client_of_mmd_is_served_beside_a_crowd(tmp_path: Path) -> None:
    environment = {**os.environ, "VFMALIGN_MMD__QUEUE_SIZE": str(PLACES)}
    with running_tenants("mmd", tmp_path, environment, 1) as (service, issuer):
        port = int(service.address.rpartition(":")[2])
        check(*await serve(port, issuer, COMPUTE, create_comparison(64)))


async def test_a_small_client_of_features_is_served_beside_a_crowd(
    store: ObjectStore, store_environment: dict[str, str], tmp_path: Path
) -> None:
    publish_models(store)
    environment = {**os.environ, **store_environment, "VFMALIGN_FEATURES__QUEUE_SIZE": str(PLACES)}
    with running_tenants("features", tmp_path, environment, 1) as (service, issuer):
        port = int(service.address.rpartition(":")[2])
        check(*await serve(port, issuer, EXTRACT, create_study()))
