"""Imports with a token alone: the service's process publishes what a client has uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.dataset_imports import publish as import_directly
from tests.integration.features.callers import ADA, BOB, ISSUER, VIEWER
from tests.integration.features.imported_datasets import (
    check_volumes,
    get_area,
    list_incoming,
    to_request,
    upload_all,
    write_folder,
)

from vfmalign.client import Client
from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.core.domain.errors import (
    Conflict,
    DigestMismatch,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.keys import dataset_key, dataset_prefix, erasures_prefix, provenance_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.erasure import make_erasures
from vfmalign.imaging.datasets.importer import DatasetToImport, prepare_import

pytestmark = pytest.mark.usefixtures("emptied")


def test_a_dataset_is_stored_byte_for_byte_as_by_the_service_itself(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore, store_settings: StoreSettings
) -> None:
    client, phases = as_caller(ADA), []
    upload_all(client, checked)
    dataset = client.datasets.publish(to_request(checked), lambda progress: phases.append(progress.phase))
    assert dataset.dataset_digest == checked.dataset.digest()
    assert phases == ["verify"] * 3 + ["publish"] * 3
    assert list_incoming(store) == []
    other = ObjectStore(store_settings.model_copy(update={"bucket": store_settings.bucket + "-2"}))
    other.ensure_bucket()
    import_directly(checked, other)
    keys = [*store.list("volumes/ward/"), dataset_key("ward")]
    assert len(keys) == 13
    assert {key: store.get(key) for key in keys} == {key: other.get(key) for key in keys}
    assert not any(b"SURNAME" in store.get(key) for key in keys)


def test_what_was_published_is_returned_again_and_another_content_conflicts(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore, tmp_path: Path
) -> None:
    client = as_caller(ADA)
    upload_all(client, checked)
    first = client.datasets.publish(to_request(checked))
    assert client.datasets.publish(to_request(checked)) == first
    upload_all(client, checked)  # the whole import again, which restores what was lost
    lost, damaged, *_ = store.list("volumes/ward/")
    store.delete(lost)
    store.put(damaged, b"damaged")
    assert client.datasets.publish(to_request(checked)) == first
    check_volumes(store, checked)

    before = {key: store.get(key) for key in store.list("volumes/ward/")}
    folder = write_folder(tmp_path / "other", 2)
    changed = prepare_import(folder, "ward", mapping_path=tmp_path / "mapping.csv", salt=bytes(32))
    upload_all(client, changed, "i2")
    with pytest.raises(Conflict, match=r"choose another dataset id, or see .*`vfmalign dataset show ward`"):
        client.datasets.publish(to_request(changed, "i2"))
    assert {key: store.get(key) for key in store.list("volumes/ward/")} == before


def test_a_dataset_names_who_published_it_first(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore
) -> None:
    ada, bob = as_caller(ADA), as_caller(BOB)
    upload_all(ada, checked)
    first = ada.datasets.publish(to_request(checked))
    assert first.created_by == f"{ISSUER.issuer}#ada"
    assert first.create_time is not None
    upload_all(bob, checked)
    assert bob.datasets.publish(to_request(checked)) == first, "a repetition changes nothing"
    listed = {one.dataset_id: one for one in as_caller(VIEWER).features.list_datasets().datasets}
    assert listed["ward"] == ada.features.get_dataset("ward") == first
    assert b"#ada" not in store.get(dataset_key("ward")), "the digests of documents do not depend on the caller"

    prefix = dataset_prefix("ward")
    store.delete(provenance_key(prefix, first.dataset_digest))  # a dataset of an earlier version stays as it is
    upload_all(bob, checked)
    old = bob.datasets.publish(to_request(checked))
    assert (old.created_by, old.create_time) == ("", None)
    assert bob.features.get_dataset("ward") == old

    store.put(provenance_key(prefix, first.dataset_digest), b"{")
    assert bob.features.get_dataset("ward") == old, "a damaged record does not make the dataset unusable"


def test_a_dataset_keeps_its_publisher_when_a_patient_is_erased(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore
) -> None:
    client = as_caller(ADA)
    upload_all(client, checked)
    first = client.datasets.publish(to_request(checked))
    group = checked.dataset.test[0].group
    request = ErasePatientRequest(erasure_id="of-publisher", group=group, models="keep")
    make_erasures(store).erase(request, "")
    smaller = client.features.get_dataset("ward")
    store.delete(f"{erasures_prefix('features')}of-publisher.json")
    assert smaller.dataset_digest != first.dataset_digest
    assert (smaller.created_by, smaller.create_time) == (first.created_by, first.create_time)
    assert not any(group.encode() in store.get(key) for key in store.list(dataset_prefix("ward")))


def test_a_publication_that_loses_a_race_replaces_no_volume(
    checked: DatasetToImport, store: ObjectStore, tmp_path: Path
) -> None:
    """Two processes of the service publish different datasets of one id, whose cases have the same ids."""
    folder = write_folder(tmp_path / "other", 2)
    changed = prepare_import(folder, "ward", mapping_path=tmp_path / "mapping.csv", salt=bytes(32))

    def publish_first(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("verify", 1):
            import_directly(checked, store, import_id="first")

    with pytest.raises(Conflict, match="another running or interrupted publication of this id"):
        import_directly(changed, store, publish_first, import_id="second")
    check_volumes(store, checked)


@pytest.mark.parametrize("moment", [("publish", 1), ("publish", 3)])
def test_a_dataset_that_is_published_while_its_patient_is_erased_goes_again(
    checked: DatasetToImport, store: ObjectStore, moment: tuple[str, int]
) -> None:
    group = checked.dataset.test[0].group

    def erase(phase: str, done: int, total: int) -> None:
        if (phase, done) == moment:
            request = ErasePatientRequest(erasure_id="racing", group=group, models="keep")
            make_erasures(store).erase(request, "")

    with pytest.raises(PreconditionFailed) as caught:
        import_directly(checked, store, erase)
    assert (caught.value.reason, group in str(caught.value)) == ("ERASED_PATIENT", False)
    assert not [*store.list("datasets/ward/"), *store.list("volumes/ward/")]
    store.delete(f"{erasures_prefix('features')}racing.json")
    import_directly(checked, store)
    check_volumes(store, checked)


def test_volumes_of_an_interrupted_publication_are_completed_but_not_replaced(
    checked: DatasetToImport, store: ObjectStore
) -> None:
    first, second, *_ = (ref for case in checked.dataset.test for ref in case.volumes.values())
    files = {hashlib.sha256(data).hexdigest(): data for volumes in checked.encode_cases() for data in volumes}
    store.put(first.key, files[first.sha256])
    store.put(second.key, files[second.sha256] + b"more")
    with pytest.raises(Conflict, match="ask an operator whether volumes/ward/ can be deleted"):
        import_directly(checked, store)
    store.delete(second.key)
    import_directly(checked, store)
    check_volumes(store, checked)


def test_a_missing_file_is_named_and_nothing_is_stored(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore
) -> None:
    client = as_caller(ADA)
    with pytest.raises(PreconditionFailed, match="was not uploaded") as caught:
        client.datasets.publish(to_request(checked))
    assert caught.value.reason == "UPLOAD_MISSING"
    upload_all(client, checked)
    missing = checked.dataset.test[0].volumes["adc"].sha256
    store.delete(get_area(store).key(missing))
    with pytest.raises(PreconditionFailed, match=f"file {missing[:12]}… of import i1: the file was not uploaded"):
        client.datasets.publish(to_request(checked))
    assert not store.exists(dataset_key("ward"))
    assert list(store.list("volumes/ward/")) == []


def test_bytes_that_were_exchanged_are_found_and_can_be_uploaded_again(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore
) -> None:
    """A store that does not verify checksums would let them through."""
    client = as_caller(ADA)
    upload_all(client, checked)
    damaged = get_area(store).key(checked.dataset.test[0].volumes["t2w"].sha256)
    data = store.get(damaged)
    store.put(damaged, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DigestMismatch, match="differ from the announced digest"):
        client.datasets.publish(to_request(checked))
    upload_all(client, checked)
    assert client.datasets.publish(to_request(checked)).dataset_id == "ward"


def test_an_import_goes_on_after_a_kill_of_the_service(
    start_server: Callable[..., Any],
    caller_settings: dict[str, str],
    as_caller: Callable[..., Client],
    tmp_path: Path,
    store: ObjectStore,
) -> None:
    # Many patients, so that publication does not end before the kill.
    folder = write_folder(tmp_path / "export", 1, patients=40)
    checked = prepare_import(folder, "ward", mapping_path=tmp_path / "mapping.csv", salt=bytes(32))
    first = start_server(**caller_settings)
    upload_all(as_caller(ADA, first.address), checked)
    first.kill()
    second = start_server(**caller_settings)
    client = as_caller(ADA, second.address)

    def kill(progress: Any) -> None:
        if progress.phase == "publish" and progress.done == 1:
            second.kill()

    with pytest.raises(Unavailable):
        client.datasets.publish(to_request(checked), kill)
    assert not store.exists(dataset_key("ward"))
    third = start_server(**caller_settings)
    dataset = as_caller(ADA, third.address).datasets.publish(to_request(checked))
    assert dataset.dataset_digest == checked.dataset.digest()
    assert list_incoming(store) == []
