"""Errors of the object store: no access, another region, no answer, a full disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vfmalign.core.domain.errors import (
    Cancelled,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
)
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import WorkContext, current_work
from vfmalign.core.storage.store.object_store import ObjectStore


@pytest.mark.parametrize("wrong", [{"secret_key": SecretStr("not-the-secret")}, {"access_key": "nobody"}])
def test_wrong_credentials_are_told_without_the_secret_and_counted(
    store_settings: StoreSettings, wrong: dict[str, Any]
) -> None:
    other = ObjectStore(store_settings.model_copy(update=wrong))
    calls: list[Callable[[], object]] = [lambda: other.get("x"), lambda: other.put("x", b""), other.ensure_bucket]
    operations = ("get", "put", "bucket")

    def count(name: str, **labels: str) -> list[float]:
        return [metrics.REGISTRY.get_sample_value(name, {"operation": one, **labels}) or 0.0 for one in operations]

    failures, attempts = (
        count("vfmalign_store_failures_total"),
        count("vfmalign_store_attempts_total", outcome="failed"),
    )
    for call in calls:
        with pytest.raises(StoreRefused, match="AWS_SECRET_ACCESS_KEY") as caught:
            call()
        assert "not-the-secret" not in str(caught.value)
    assert count("vfmalign_store_failures_total") == [number + 1 for number in failures]
    assert count("vfmalign_store_attempts_total", outcome="failed") == [number + 1 for number in attempts]


def test_a_wrong_clock_is_told_and_not_taken_for_wrong_keys(
    store_settings: StoreSettings, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minio.time.utcnow", lambda: datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(StoreRefused, match="the clocks of the service and of the object store") as caught:
        store.get("x")
    assert caught.value.remedy == "ask the operator to synchronise the clocks of both machines"


def test_every_attempt_is_counted_and_measured(store_settings: StoreSettings, store: ObjectStore) -> None:
    def count(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(f"vfmalign_store_{name}", {"operation": "head", **labels}) or 0.0

    def read() -> tuple[float, ...]:
        attempts = [count("attempts_total", outcome=outcome) for outcome in ("answered", "failed")]
        return (*attempts, count("failures_total"), count("seconds_count"))

    before = read()
    assert not store.exists("absent")  # an answer like any other
    down = ObjectStore(store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), attempts=3)
    with pytest.raises(StoreUnavailable):
        down.exists("any")
    assert [after - earlier for after, earlier in zip(read(), before, strict=True)] == [1, 3, 1, 4]


class AnotherRegion(BaseHTTPRequestHandler):
    """Answers as AWS does for a bucket that is not in the region of the signature."""

    def answer(self) -> None:
        code = "IllegalLocationConstraintException" if self.path.count("/") == 1 else "AuthorizationHeaderMalformed"
        body = f"<Error><Code>{code}</Code><Message>the region is wrong</Message></Error>".encode()
        self.send_response(400)
        self.send_header("x-amz-bucket-region", "eu-central-1")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET = do_PUT = answer

    def log_message(self, *_: object) -> None:
        pass


def test_a_bucket_in_another_region_is_told(store_settings: StoreSettings) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), AnotherRegion)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        other = ObjectStore(store_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{server.server_port}"}))
        calls: list[Callable[[], object]] = [
            other.has_bucket, other.ensure_bucket, lambda: other.get("x"), lambda: other.put("x", b""),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(PreconditionFailed, match="does not accept the region us-east-1") as caught:
                call()
            assert caught.value.reason == "WRONG_REGION"
            assert caught.value.remedy.startswith("set AWS_REGION to ")
    finally:
        server.shutdown()
        server.server_close()


def test_a_store_that_is_down_is_unavailable(store_settings: StoreSettings) -> None:
    down = ObjectStore(store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), attempts=2)
    for call in (lambda: down.get("x"), lambda: down.put("x", b""), lambda: down.put_if_absent("x", b"")):
        with pytest.raises(Unavailable, match="does not answer"):
            call()


class FullDisk(BaseHTTPRequestHandler):
    """Answers as SeaweedFS does when its disk is full."""

    body = b"<Error><Code>InternalError</Code><Message>no writable volumes</Message></Error>"

    def answer(self) -> None:
        self.send_response(500)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    do_HEAD = do_GET = answer

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_that_answers_with_errors_is_told_from_one_that_does_not_answer(
    store_settings: StoreSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FullDisk)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        full = ObjectStore(store_settings.model_copy(update={"endpoint": endpoint}), attempts=1)
        calls: list[Callable[[], object]] = [
            lambda: full.put("x", b""),
            lambda: full.put_if_absent("x", b""),
            lambda: full.upload("x", tmp_path / "file"),
            lambda: full.get("x"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable, match=r"answers with errors \(HTTP 500 InternalError\)") as caught:
                call()
            assert caught.value.message.endswith("; its disk may be full")
            assert caught.value.remedy == "check its free disk space and its log, then try again"
        with pytest.raises(StoreUnavailable, match=r"answers with errors \(HTTP 500"):
            full.exists("x")  # the response to a HEAD request has no body
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_is_asked_again_for_a_caller_who_has_left(store_settings: StoreSettings) -> None:
    asked, left = [], threading.Event()

    class Busy(FullDisk):
        def answer(self) -> None:
            asked.append(self.path)
            left.set()
            super().answer()

        do_HEAD = do_GET = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        busy = ObjectStore(store_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{server.server_port}"}))
        with Threads(1, "call") as threads:
            token = current_work.set(WorkContext(is_cancelled=left.is_set))
            reading = threads.submit(busy.get, "x")
            current_work.reset(token)
            with pytest.raises(Cancelled):
                reading.result(30)
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 1
