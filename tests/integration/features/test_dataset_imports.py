"""Imports with a token alone: the service's process, real uploads to presigned URLs, and what hostile clients try."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import nibabel as nib
import numpy as np
import pytest
import urllib3
from tests.dataset_imports import publish as import_directly
from tests.integration.features.callers import ADA, BOB, ISSUER, VIEWER, describe_model

from vfmalign.cli.imports import to_stored_datalist
from vfmalign.client import Client
from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.client.messages.imports import (
    CreateDatasetUploadsRequest,
    CreateDatasetUploadsResponse,
    PublishDatasetRequest,
)
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.errors import (
    BadDataset,
    BadVolume,
    Conflict,
    DigestMismatch,
    Forbidden,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.keys import INCOMING, dataset_key, dataset_prefix, erasures_prefix, provenance_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.uploads import UploadArea, delete_expired
from vfmalign.features.erasure import make_erasures
from vfmalign.imaging.datasets.importer import DatasetToImport, prepare_import
from vfmalign.v1 import imports_pb2, imports_pb2_grpc

HTTP = urllib3.PoolManager(retries=False)
"""What a client without keys sends its files with."""


def write_folder(folder: Path, seed: int, patients: int = 3) -> Path:
    """Patients with three modalities and one label map."""
    generator = np.random.default_rng(seed)
    for number in range(patients):
        case = folder / f"SURNAME^{number}"
        case.mkdir(parents=True)
        for name, low, high in (("t2", 1, 900), ("dwi", 1, 900), ("adc", 1, 900), ("mask", 0, 2)):
            array = generator.integers(low, high, (24, 24, 8)).astype(np.float32)
            nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 4.0, 1.0])), case / f"{name}.nii.gz")
    return folder


@pytest.fixture
def checked(tmp_path: Path) -> DatasetToImport:
    """A dataset that the client has checked."""
    folder = write_folder(tmp_path / "export", 1)
    return prepare_import(folder, "ward", mapping_path=tmp_path / "mapping.csv", salt=bytes(32))


def to_request(checked: DatasetToImport, import_id: str = "i1") -> PublishDatasetRequest:
    sha256 = hashlib.sha256(to_stored_datalist(checked.dataset)).hexdigest()
    return PublishDatasetRequest(import_id=import_id, dataset_id=checked.dataset.id, datalist_sha256=sha256)


def upload_all(client: Client, checked: DatasetToImport, import_id: str = "i1") -> None:
    for volumes in checked.encode_cases():
        client.datasets.upload(import_id, volumes)
    client.datasets.upload(import_id, [to_stored_datalist(checked.dataset)])


def list_incoming(store: ObjectStore) -> list[str]:
    return list(store.list("incoming/"))


@pytest.fixture(autouse=True)
def _empty(store: ObjectStore) -> Iterator[None]:
    yield
    for prefix in ("incoming/", "datasets/ward", "volumes/ward/", "models/imported"):
        for key in store.list(prefix):
            store.delete(key)


def sign(import_service: Any, token: str, *files: FileContent) -> list[FileUpload]:
    """Asks for URLs, as a program in any language would."""
    request = CreateDatasetUploadsRequest(import_id="i1", files=files).to_proto()
    with grpc.insecure_channel(import_service.address) as channel:
        stub = imports_pb2_grpc.DatasetServiceStub(channel)
        response = stub.CreateDatasetUploads(request, metadata=[("authorization", f"Bearer {token}")])
    assert isinstance(response, imports_pb2.CreateDatasetUploadsResponse)
    return list(CreateDatasetUploadsResponse.from_response(response).uploads)


def check_volumes(store: ObjectStore, checked: DatasetToImport) -> None:
    """Checks that the dataset is stored with every volume."""
    assert store.exists(dataset_key("ward"))
    refs = [ref for split in SPLITS for case in checked.dataset.split(split) for ref in case.volumes.values()]
    assert sorted(store.list("volumes/ward/")) == sorted(ref.key for ref in refs)
    for ref in refs:
        store.get(ref.key, sha256=ref.sha256)


def get_area(store: ObjectStore, caller: str = "ada") -> UploadArea:
    return UploadArea(store, f"{ISSUER.issuer}#{caller}", "i1")


# --- datasets ---


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


def test_files_that_are_there_are_not_sent_again(import_service: Any, as_caller: Callable[[str], Client]) -> None:
    (sha256,) = as_caller(ADA).datasets.upload("i1", [b"a volume"])
    other = FileContent(sha256="0" * 64, size_bytes=5)
    uploads = sign(import_service, ADA, FileContent(sha256=sha256, size_bytes=8), other)
    assert [(upload.complete, bool(upload.url)) for upload in uploads] == [(True, False), (False, True)]
    assert "X-Amz-Signature" not in repr(uploads)


@pytest.mark.parametrize(("body", "status"), [(b"a longer body", 403), (b"short", 403), (b"other456", 400)])
def test_a_url_stores_the_announced_bytes_alone(
    import_service: Any, store: ObjectStore, body: bytes, status: int
) -> None:
    content = FileContent(sha256=hashlib.sha256(b"announce").hexdigest(), size_bytes=8)
    (upload,) = sign(import_service, ADA, content)
    assert HTTP.request("PUT", upload.url, body=body, headers=upload.headers).status == status
    assert HTTP.request("PUT", upload.url, body=b"announce").status == 403, "the checksum is part of the signature"
    assert list_incoming(store) == []
    assert HTTP.request("PUT", upload.url, body=b"announce", headers=upload.headers).status == 200
    for method in ("GET", "DELETE"):
        assert HTTP.request(method, upload.url, headers=upload.headers).status == 403


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


def test_nobody_reaches_the_uploads_of_somebody_else(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore
) -> None:
    upload_all(as_caller(ADA), checked)
    before = list_incoming(store)
    with pytest.raises(PreconditionFailed, match="was not uploaded"):
        as_caller(BOB).datasets.publish(to_request(checked))
    as_caller(BOB).datasets.upload("i1", [b"something else"])
    assert set(before) < set(list_incoming(store))
    assert as_caller(ADA).datasets.publish(to_request(checked)).dataset_id == "ward"


def test_viewers_and_researchers_import_nothing(as_caller: Callable[[str], Client], checked: DatasetToImport) -> None:
    client, calls = as_caller(VIEWER), []
    calls.append(lambda: client.datasets.upload("i1", [b"x"]))
    calls.append(lambda: client.datasets.publish(to_request(checked)))
    calls.append(lambda: client.models.upload("i1", b"x"))
    calls.append(lambda: client.models.publish(describe_model(b"x")))
    for call in calls:
        with pytest.raises(Forbidden, match="ask an administrator for the role curator"):
            call()


def with_text_in_header(data: bytes) -> bytes:
    """The same voxels, with a patient's name in the header."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    image.header["descrip"] = b"SURNAME^GIVEN"
    return gzip.compress(image.to_bytes(), mtime=0)


def with_name_of_file(data: bytes) -> bytes:
    """The same voxels, with a file name in the header of gzip."""
    return data[:3] + b"\x08" + data[4:10] + b"SURNAME.nii\0" + data[10:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_text_in_header, "may hold text that names a patient"),
        (with_name_of_file, "may hold text that names a patient"),
        (lambda data: data + data, "may hold text that names a patient"),
        (lambda data: data[:-100], "truncated"),
        (lambda data: b"cos\nsystem\n(S'id'\ntR.", "not a NIfTI file"),
    ],
    ids=["text", "file name", "two members", "truncated", "pickle"],
)
def test_a_hostile_volume_is_refused(
    as_caller: Callable[[str], Client],
    checked: DatasetToImport,
    store: ObjectStore,
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    client = as_caller(ADA)
    upload_all(client, checked)
    case = checked.dataset.test[0]
    ref = case.volumes["adc"]
    hostile = change(store.get(get_area(store).key(ref.sha256)))
    (sha256,) = client.datasets.upload("i1", [hostile])
    datalist = to_stored_datalist(checked.dataset).replace(ref.sha256.encode(), sha256.encode())
    (datalist_sha256,) = client.datasets.upload("i1", [datalist])
    request = to_request(checked).model_copy(update={"datalist_sha256": datalist_sha256})
    with pytest.raises(BadVolume, match=message) as caught:
        client.datasets.publish(request)
    assert caught.value.subject == f"{case.id}/adc"
    assert list(store.list("volumes/ward/")) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("volumes/ward/", "volumes/other/"),
        lambda text: text.replace("volumes/ward/", "datasets/ward/"),
        lambda text: text.replace("ward", "../models"),
        lambda text: text.replace('"name":"ward"', '"name":"SURNAME"'),
        lambda text: json.dumps(json.loads(text)),
        lambda text: "[" * 100_000,
        lambda text: "{}",
        lambda text: text.replace('"held_out":true', '"held_out":1'),
        lambda text: text.replace('"label_maps":', '"strata":{"SURNAME, GIVEN":"x"},"label_maps":'),
    ],
    ids=["keys of others", "other keys", "keys that climb", "name", "spaces", "nested", "empty", "type", "map"],
)
def test_a_hostile_datalist_is_refused(
    as_caller: Callable[[str], Client], checked: DatasetToImport, store: ObjectStore, change: Callable[[str], str]
) -> None:
    client = as_caller(ADA)
    upload_all(client, checked)
    (sha256,) = client.datasets.upload("i1", [change(to_stored_datalist(checked.dataset).decode()).encode()])
    with pytest.raises(BadDataset, match="dataset ward") as caught:
        client.datasets.publish(to_request(checked).model_copy(update={"datalist_sha256": sha256}))
    assert "SURNAME" not in str(caught.value)
    assert list(store.list("volumes/")) == list(store.list("datasets/")) == []


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


def test_uploads_that_nobody_publishes_expire(as_caller: Callable[[str], Client], store: ObjectStore) -> None:
    as_caller(ADA).datasets.upload("i1", [b"a", b"b"])
    assert delete_expired(store, INCOMING, 3600).objects == 0
    assert len(list_incoming(store)) == 2
    assert delete_expired(store, INCOMING, -5).objects == 2
    assert list_incoming(store) == []
