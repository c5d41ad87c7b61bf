"""Presigned requests against a real S3 server, sent as a client without keys sends them."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta

import pytest
import urllib3
from pydantic import ValidationError

from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner

DATA = b"eight by"
SHA256 = hashlib.sha256(DATA).hexdigest()
HTTP = urllib3.PoolManager(retries=False)


def send(url: str, headers: dict[str, str], body: bytes = DATA) -> int:
    return HTTP.request("PUT", url, body=body, headers=headers).status


def test_a_request_stores_its_bytes_and_no_others(store: ObjectStore, store_settings: StoreSettings) -> None:
    name = store.name("incoming/a b/ä")
    request = Presigner(store_settings).sign_put(name, len(DATA), SHA256, timedelta(minutes=1))
    assert send(request.url, request.headers, DATA + b"x") == 403
    assert send(request.url, request.headers, DATA[::-1]) == 400
    assert send(request.url, {}) == 403
    assert send(request.url.replace("/incoming/", "/models/"), request.headers) == 403
    assert list(store.list("")) == []
    assert send(request.url, request.headers) == 200
    assert store.get("incoming/a b/ä", sha256=SHA256) == DATA


def test_a_request_expires(store_settings: StoreSettings) -> None:
    request = Presigner(store_settings).sign_put("incoming/late", len(DATA), SHA256, timedelta(seconds=1))
    time.sleep(2.5)
    assert send(request.url, request.headers) == 403


def test_the_host_is_the_one_that_clients_reach(store_settings: StoreSettings) -> None:
    settings = store_settings.model_copy(update={"presigned_endpoint": "https://s3.hospital.example"})
    request = Presigner(settings).sign_put("incoming/a", 1, SHA256, timedelta(minutes=1))
    assert request.url.startswith(f"https://s3.hospital.example/{settings.bucket}/incoming/a?X-Amz-Algorithm=")
    aws = settings.model_copy(update={"presigned_endpoint": "https://s3.eu-central-1.amazonaws.com"})
    url = Presigner(aws).sign_put("incoming/a", 1, SHA256, timedelta(minutes=1)).url
    assert url.startswith(f"https://{settings.bucket}.s3.")


def test_temporary_keys_bring_their_session_token(store_settings: StoreSettings) -> None:
    settings = StoreSettings(
        bucket="bucket", endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", session_token="t/1"
    )
    assert "&X-Amz-Security-Token=t%2F1&" in Presigner(settings).sign_put("a", 1, SHA256, timedelta(minutes=1)).url


def test_the_setting_is_a_url_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFMALIGN_PRESIGNED_ENDPOINT", "https://s3.hospital.example/")
    assert StoreSettings(endpoint="http://s3:8333").presigned_endpoint == "https://s3.hospital.example"
    for wrong in ("s3.hospital.example", "https://a/b", "https://key:secret@a"):
        with pytest.raises(ValidationError, match="it must be http"):
            StoreSettings(endpoint="http://s3:8333", presigned_endpoint=wrong)
