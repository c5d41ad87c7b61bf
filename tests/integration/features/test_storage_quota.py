"""The quota of storage: what uploads find room, on a real S3 server and through the service's process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.features.callers import ADA, BOB, describe_model

from vfmalign.client import Client
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.storage.store import quota as module
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.quota import StorageQuota
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state, to_safetensors

ROOM_BYTES = 1000


@pytest.fixture
def tenant(store: ObjectStore) -> Iterator[ObjectStore]:
    """A tenant with objects of 300 bytes, besides those of another tenant."""
    own, other = store.of_tenant("small"), store.of_tenant("large")
    own.put("volumes/a/b/t2w.nii.gz", bytes(200))
    own.put("incoming/x/i1/old", bytes(100))
    other.put("volumes/a/b/t2w.nii.gz", bytes(5000))
    yield own
    for view in (own, other):
        for key in view.list(""):
            view.delete(key)


def get_quota(tenant: ObjectStore, limit_bytes: int = ROOM_BYTES) -> StorageQuota:
    return StorageQuota(tenant, limit_bytes, setting="THE_SETTING", uploads="incoming/")


def test_stored_objects_and_announced_uploads_count(tenant: ObjectStore) -> None:
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 400)], 60)
    quota.announce([("incoming/x/i1/a", 400), ("incoming/x/i1/old", 100)], 60)  # the same file, and one that is there
    with pytest.raises(TooLarge, match="uses 700 of 1,000 bytes, and the upload adds 301") as caught:
        quota.announce([("incoming/y/i1/b", 301)], 60)
    assert caught.value.reason == "STORAGE_QUOTA_EXCEEDED"
    assert "raise THE_SETTING" in caught.value.remedy
    quota.announce([("incoming/y/i1/b", 300)], 60)


def test_a_quota_of_one_prefix_counts_nothing_else(tenant: ObjectStore) -> None:
    quota = StorageQuota(tenant, 150, setting="THE_SETTING", uploads="incoming/", counted="incoming/")
    with pytest.raises(TooLarge, match="uses 100 of 150 bytes below incoming/, and the upload adds 51"):
        quota.announce([("incoming/x/i1/a", 51)], 60)
    quota.announce([("incoming/x/i1/a", 50)], 60)
    labels = {"tenant": tenant.tenant, "quota": "storage"}
    assert REGISTRY.get_sample_value("vfmalign_quota_used_ratio", labels) == 1


async def test_deleted_objects_count_no_more_although_nobody_uploads(
    tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEASURED_AFTER_S", 0.01)
    quota = StorageQuota(tenant, 300, setting="THE_SETTING", uploads="incoming/")
    with pytest.raises(TooLarge):
        quota.announce([("incoming/x/i1/a", 1)], 60)

    def get_share() -> float | None:
        return REGISTRY.get_sample_value("vfmalign_quota_used_ratio", {"tenant": tenant.tenant, "quota": "storage"})

    assert get_share() == 1
    measuring = asyncio.create_task(quota.keep_measured())
    tenant.delete("volumes/a/b/t2w.nii.gz")
    async with asyncio.timeout(60):
        while get_share() == 1:  # noqa: ASYNC110 - a metric
            await asyncio.sleep(0.01)
    measuring.cancel()
    assert get_share() == pytest.approx(1 / 3)


def test_an_upload_that_arrived_counts_once(tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEASURED_FOR_S", 0.0)
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 400)], 60)
    tenant.put("incoming/x/i1/a", bytes(400))
    quota.announce([("incoming/x/i1/b", 300)], 60)
    with pytest.raises(TooLarge):
        quota.announce([("incoming/x/i1/c", 1)], 60)


@pytest.mark.parametrize(
    "calls",
    [[[("incoming/x/i1/a", 700)], [("incoming/x/i1/a", 1)]], [[("incoming/x/i1/a", 700), ("incoming/x/i1/a", 1)]]],
    ids=["two calls", "one call"],
)
def test_the_largest_of_a_files_urls_counts(tenant: ObjectStore, calls: list[list[tuple[str, int]]]) -> None:
    quota = get_quota(tenant)
    for files in calls:
        quota.announce(files, 60)
    with pytest.raises(TooLarge, match="uses 1,000 of"):
        quota.announce([("incoming/x/i1/b", 1)], 60)


def test_a_smaller_announcement_lasts_no_shorter(tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEASURED_FOR_S", 0.0)
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 700)], 60)
    quota.announce([("incoming/x/i1/a", 1)], 0.01)
    time.sleep(0.02)
    with pytest.raises(TooLarge, match="uses 1,000 of"):
        quota.announce([("incoming/x/i1/b", 1)], 60)


def test_an_upload_that_was_deleted_may_arrive_again(tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEASURED_FOR_S", 0.0)
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 700)], 60)
    tenant.put("incoming/x/i1/a", bytes(700))
    quota.announce([("incoming/x/i1/a", 700)], 60)
    tenant.delete("incoming/x/i1/a")
    with pytest.raises(TooLarge, match="uses 1,000 of"):
        quota.announce([("incoming/x/i1/b", 1)], 60)


def test_announced_files_are_limited_whatever_their_size(tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ANNOUNCED", 2)
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 1), ("incoming/x/i1/b", 1)], 60)
    quota.announce([("incoming/x/i1/a", 1), ("incoming/x/i1/b", 1)], 60)
    with pytest.raises(TooLarge, match="has announced 2 of at most 2 files at a time, and the upload adds 1") as caught:
        quota.announce([("incoming/x/i1/a", 1), ("incoming/x/i1/c", 1)], 60)
    assert caught.value.reason == "TOO_MANY_UPLOADS"


def test_an_expired_announcement_gives_its_room_back(tenant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEASURED_FOR_S", 0.0)
    quota = get_quota(tenant)
    quota.announce([("incoming/x/i1/a", 700)], 0.01)
    time.sleep(0.02)
    quota.announce([("incoming/x/i1/b", 700)], 60)


def test_zero_is_no_limit(tenant: ObjectStore) -> None:
    get_quota(tenant, 0).announce([("incoming/x/i1/a", 2**60)], 60)


def test_the_service_refuses_uploads_beyond_the_quota_before_they_are_sent(
    start_server: Callable[..., Any],
    as_caller: Callable[..., Client],
    caller_settings: dict[str, str],
    store: ObjectStore,
) -> None:
    used = sum(store.sizes_bytes("").values())
    server = start_server(**caller_settings, VFMALIGN_FEATURES__MAX_STORED_BYTES=str(used + 1000))
    ada, bob = as_caller(ADA, server.address), as_caller(BOB, server.address)
    ada.datasets.upload("i1", [bytes(600)])
    with pytest.raises(TooLarge, match="the upload adds 500") as caught:
        bob.datasets.upload("i1", [bytes(500)])
    assert caught.value.subject == "tenant default"
    assert "VFMALIGN_FEATURES__MAX_STORED_BYTES" in caught.value.remedy
    with pytest.raises(TooLarge):
        ada.models.upload("i2", bytes(401))
    ada.datasets.upload("i1", [bytes(600), bytes(400)])
    for key in store.list("incoming/"):
        store.delete(key)


def test_a_publication_gives_no_room_back_to_urls_that_are_still_valid(
    start_server: Callable[..., Any],
    as_caller: Callable[..., Client],
    caller_settings: dict[str, str],
    store: ObjectStore,
) -> None:
    weights = to_safetensors(random_state(get_architecture("profound_conv_micro"), 0))
    limit = sum(store.sizes_bytes("").values()) + 2 * len(weights) + 1000
    server = start_server(**caller_settings, VFMALIGN_FEATURES__MAX_STORED_BYTES=str(limit))
    client = as_caller(ADA, server.address)
    client.datasets.upload("i1", [bytes(1000)])
    client.models.upload("i1", weights)
    client.models.publish(describe_model(weights))
    assert list(store.list("incoming/")) == [], "the publication deletes all files of its import"
    with pytest.raises(TooLarge, match=f"the upload adds {len(weights) + 1:,}"):
        client.datasets.upload("i1", [bytes(len(weights) + 1)])
    for key in store.list("models/imported/"):
        store.delete(key)
