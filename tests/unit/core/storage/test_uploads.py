"""Uploads of an import on a real S3 server: who reaches them, what is verified, and when they go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from vfmalign.core.domain.errors import DigestMismatch, InvalidInput, NotFound, PreconditionFailed
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.keys import INCOMING
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.uploads import UploadArea, delete_expired


@pytest.fixture
def area(store: ObjectStore) -> Iterator[UploadArea]:
    yield UploadArea(store, "https://idp.example#ada", "i1")
    for key in store.list(""):
        store.delete(key)


def put(area: UploadArea, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    area.store.put(area.key(sha256), data)
    return sha256


def test_keys_differ_by_caller_and_import_and_name_nobody(area: UploadArea) -> None:
    others = [UploadArea(area.store, "https://idp.example#bob", "i1"), UploadArea(area.store, area.caller, "i2")]
    assert len({area.prefix, *(other.prefix for other in others)}) == 3
    assert area.prefix.startswith("incoming/")
    assert "ada" not in area.prefix


def test_requests_are_for_files_that_are_absent_or_have_another_size(
    area: UploadArea, store_settings: StoreSettings
) -> None:
    present, torn = put(area, b"present"), put(area, b"torn")
    files = [(present, 7), (torn, 9), ("0" * 64, 1)]
    requests = area.sign(Presigner(store_settings), files, timedelta(minutes=1))
    assert [request is None for request in requests] == [True, False, False]


def test_a_file_is_verified_when_it_is_read(area: UploadArea) -> None:
    sha256 = put(area, b"content")
    assert area.read(sha256, 7) == b"content"
    with pytest.raises(InvalidInput, match="the limit is 6"):
        area.read(sha256, 6)
    area.store.put(area.key(sha256), b"changed")
    with pytest.raises(DigestMismatch, match=f"file {sha256[:12]}… of import i1: the uploaded bytes"):
        area.read(sha256, 7)
    assert area.find(sha256, 7) is None, "it can be uploaded again"
    with pytest.raises(PreconditionFailed, match="run the import again") as caught:
        area.read(sha256, 7)
    assert caught.value.reason == "UPLOAD_MISSING"


def test_a_missing_bucket_is_not_a_missing_file(store_settings: StoreSettings) -> None:
    store = ObjectStore(store_settings.model_copy(update={"bucket": "there-is-none"}))
    with pytest.raises(NotFound):
        UploadArea(store, "a", "i1").find("0" * 64, 1)


def test_clearing_begins_with_the_file_that_names_the_others(area: UploadArea, monkeypatch: pytest.MonkeyPatch) -> None:
    first = max(put(area, b"a"), put(area, b"b"), put(area, b"c"))
    deleted: list[str] = []
    delete = area.store.delete
    monkeypatch.setattr(area.store, "delete", lambda key: (deleted.append(key), delete(key)))
    area.clear(first)
    assert deleted[0] == area.key(first)
    assert list(area.store.list("incoming/")) == []


def test_old_uploads_alone_expire(area: UploadArea) -> None:
    put(area, b"a")
    area.store.put("models/m/model.json", b"{}")
    assert delete_expired(area.store, INCOMING, 60).objects == 0
    assert delete_expired(area.store, INCOMING, -5).objects == 1
    assert list(area.store.list("")) == ["models/m/model.json"]
