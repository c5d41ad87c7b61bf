"""The object store against a real S3 server."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from vfmalign.core.artifacts import VolumeRef
from vfmalign.core.errors import (
    DigestMismatch,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
)
from vfmalign.core.settings import StoreSettings
from vfmalign.core.store import ObjectStore


def test_bytes_come_back_with_their_digest(store: ObjectStore) -> None:
    ref = store.put("a/b.bin", b"hello")
    assert ref == VolumeRef(key="a/b.bin", sha256=hashlib.sha256(b"hello").hexdigest())
    assert store.get(ref.key, sha256=ref.sha256) == b"hello"
    assert store.exists("a/b.bin")
    assert list(store.list("a/")) == ["a/b.bin"]
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")


def test_a_tampered_object_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    ref = store.put("tampered", b"before")
    store.put("tampered", b"after")
    with pytest.raises(DigestMismatch, match="expected"):
        store.get("tampered", sha256=ref.sha256)
    with pytest.raises(DigestMismatch):
        store.download("tampered", tmp_path / "x", sha256=ref.sha256)
    assert list(tmp_path.iterdir()) == []


def test_files_stream_in_and_out(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(bytes(range(256)) * 100_000)
    ref = store.upload("big", source)
    store.download("big", tmp_path / "out", sha256=ref.sha256)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_of_many_conditional_writers_one_wins(store: ObjectStore) -> None:
    wins: list[int] = []

    def write(number: int) -> None:
        if store.put_if_absent("race", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get("race") == str(wins[0]).encode()


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match=f"s3://{store.bucket}/no/such"):
        store.get("no/such")


def test_a_missing_bucket_is_named(store_settings: StoreSettings) -> None:
    other = ObjectStore(store_settings.model_copy(update={"bucket": "never-made"}))
    with pytest.raises(NotFound, match="no such"):
        other.get("x")


def test_an_object_over_the_limit_is_refused_before_it_is_read(store: ObjectStore) -> None:
    store.put("large", b"x" * 1000)
    with pytest.raises(InvalidInput, match="1000 bytes, the limit is 999"):
        store.get("large", max_bytes=999)


@pytest.mark.parametrize("uri", ["s3://other/x", "x", "file:///etc/passwd", "s3://{bucket}/", "s3://{bucket}/../x"])
def test_only_uris_of_the_bucket_are_read(store: ObjectStore, uri: str) -> None:
    with pytest.raises(InvalidInput, match="bucket"):
        store.key(uri.format(bucket=store.bucket))


def test_a_record_of_another_shape_is_refused(store: ObjectStore) -> None:
    store.put("record", b'{"key": 3}')
    with pytest.raises(PreconditionFailed, match="VolumeRef"):
        store.read("record", VolumeRef)
    store.put("record", b"not json")
    with pytest.raises(PreconditionFailed, match="not JSON"):
        store.get_json("record")


def test_wrong_credentials_are_told_without_the_secret(store_settings: StoreSettings) -> None:
    other = ObjectStore(store_settings.model_copy(update={"secret_key": SecretStr("not-the-secret")}))
    with pytest.raises(Unauthenticated, match="AWS_SECRET_ACCESS_KEY") as caught:
        other.get("x")
    assert "not-the-secret" not in str(caught.value)


def test_a_store_that_is_down_is_unavailable(store_settings: StoreSettings) -> None:
    down = ObjectStore(store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), attempts=2)
    for call in (lambda: down.get("x"), lambda: down.put("x", b""), lambda: down.put_if_absent("x", b"")):
        with pytest.raises(Unavailable, match="does not answer"):
            call()
