"""Shared fixtures of the imaging tests: small volumes, NIfTI bytes with arbitrary headers, and an in-memory store."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from vfmalign.core.domain.errors import DigestMismatch, NotFound
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomCase, generate_case
from vfmalign.imaging.volumes import Volume, decode

PICAI = Path(__file__).parents[4] / "shared" / "data" / "picai-sample"
PICAI_FILES = {"t2w": "t2", "dwi": "dwi", "adc": "adc", "gland": "mask", "lesions": "lesions"}


class MemoryStore(ObjectStore):
    """An object store that keeps its objects in a dict; the real store is tested elsewhere."""

    def __init__(self) -> None:
        self.bucket = "vfmalign"
        self.objects: dict[str, bytes] = {}

    def get(self, key: str, sha256: str | None = None, max_bytes: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFound("there is no such object", subject=self.uri(key))
        data = self.objects[key]
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise DigestMismatch("wrong digest", subject=self.uri(key))
        return data

    def get_large(
        self, key: str, sha256: str | None = None, max_bytes: int | None = None, context: WorkContext = UNLIMITED
    ) -> memoryview:
        return memoryview(self.get(key, sha256, max_bytes))

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> StoredObject:
        self.objects[key] = data
        return StoredObject(key=key, sha256=hashlib.sha256(data).hexdigest())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = data
        return True

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


@cache
def _get_phantom_case(index: int) -> PhantomCase:
    return generate_case(0, index)


@pytest.fixture(scope="session")
def phantom_cases() -> list[PhantomCase]:
    """The first cases of the set of seed 0."""
    return [_get_phantom_case(index) for index in range(16)]


@pytest.fixture(scope="session")
def phantom() -> PhantomCase:
    """The first case with a lesion of the highest grade; most tests need no other."""
    return next(case for case in map(_get_phantom_case, range(16)) if 3 in case.lesion_grades)


@pytest.fixture(scope="session")
def picai_folder() -> Path:
    """The real case's folder; the tests that need it are skipped where it is absent."""
    if not PICAI.is_dir():
        pytest.skip("the real case ../shared/data/picai-sample is not on this machine")
    return PICAI


@pytest.fixture(scope="session")
def picai(picai_folder: Path) -> dict[str, Volume]:
    """The real case's volumes."""
    files = {kind: picai_folder / f"{name}.nii.gz" for kind, name in PICAI_FILES.items()}
    return {kind: decode(path.read_bytes(), kind, kind) for kind, path in files.items()}


@pytest.fixture
def nifti() -> Callable[..., bytes]:
    """Builds the bytes of a NIfTI file: `nifti(array, affine=…, gz=…, **header fields)`."""

    def make(
        array: Any = None,
        affine: Any = None,
        *,
        gz: bool = True,
        image_class: Any = nib.Nifti1Image,
        **fields: Any,
    ) -> bytes:
        if array is None:
            array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
        image = image_class(np.asarray(array), np.diag([0.5, 0.5, 3.0, 1.0]) if affine is None else affine)
        plain = bytearray(image.to_bytes())
        header = image_class.header_class(bytes(plain[: image_class.header_class.sizeof_hdr]), check=False)
        for name, value in fields.items():
            header[name] = value
        plain[: len(header.binaryblock)] = header.binaryblock
        if not gz:
            return bytes(plain)
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
            file.write(bytes(plain))
        return packed.getvalue()

    return make
