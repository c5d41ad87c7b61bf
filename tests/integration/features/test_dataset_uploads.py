"""Uploads to presigned URLs, and what hostile clients try with them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any

import nibabel as nib
import pytest
from tests.integration.features.callers import ADA, BOB, VIEWER, describe_model
from tests.integration.features.imported_datasets import (
    HTTP,
    get_area,
    list_incoming,
    sign,
    to_request,
    upload_all,
)

from vfmalign.cli.imports import to_stored_datalist
from vfmalign.client import Client
from vfmalign.client.messages.common import FileContent
from vfmalign.core.domain.errors import (
    BadDataset,
    BadVolume,
    Forbidden,
    PreconditionFailed,
)
from vfmalign.core.storage.keys import INCOMING
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.uploads import delete_expired
from vfmalign.imaging.datasets.importer import DatasetToImport

pytestmark = pytest.mark.usefixtures("emptied")


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


def test_uploads_that_nobody_publishes_expire(as_caller: Callable[[str], Client], store: ObjectStore) -> None:
    as_caller(ADA).datasets.upload("i1", [b"a", b"b"])
    assert delete_expired(store, INCOMING, 3600).objects == 0
    assert len(list_incoming(store)) == 2
    assert delete_expired(store, INCOMING, -5).objects == 2
    assert list_incoming(store) == []
