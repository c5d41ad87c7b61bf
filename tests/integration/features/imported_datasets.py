"""Datasets that a client imports with a token alone, and what is stored of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import nibabel as nib
import numpy as np
import pytest
import urllib3
from tests.integration.features.callers import ISSUER

from vfmalign.cli.imports import to_stored_datalist
from vfmalign.client import Client
from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.client.messages.imports import (
    CreateDatasetUploadsRequest,
    CreateDatasetUploadsResponse,
    PublishDatasetRequest,
)
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.storage.keys import dataset_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.uploads import UploadArea
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


@pytest.fixture
def emptied(store: ObjectStore) -> Iterator[None]:
    """Deletes what the test has imported."""
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
