"""The object store against a real S3 server."""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from vfmalign.core.domain.errors import (
    DigestMismatch,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore


def test_bytes_come_back_with_their_digest(store: ObjectStore) -> None:
    ref = store.put("a/b.bin", b"hello")
    assert ref == StoredObject(key="a/b.bin", sha256=hashlib.sha256(b"hello").hexdigest())
    assert store.get(ref.key, sha256=ref.sha256) == b"hello"
    assert store.exists("a/b.bin")
    assert list(store.list("a/")) == ["a/b.bin"]
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")


def test_the_beginning_of_an_object_can_be_read_alone(store: ObjectStore) -> None:
    store.put("begun", b"0123456789")
    assert store.first("begun", 4) == b"0123"
    assert store.first("begun", 100) == b"0123456789"
    with pytest.raises(NotFound):
        store.first("never-begun", 4)


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


@pytest.fixture
def forgetful(store: ObjectStore, store_settings: StoreSettings) -> Iterator[ObjectStore]:
    """The same bucket through a line that loses the first answer."""

    def lose_answer(client: socket.socket, server: socket.socket) -> None:
        received = b""
        while not received.endswith(b"ours"):  # headers and body arrive one after the other
            received += client.recv(65_536)
        server.sendall(received)
        server.recv(65_536)  # what was asked for is done

    with _open_through(store_settings, lose_answer) as result:
        yield result


@pytest.fixture
def interrupted(store: ObjectStore, store_settings: StoreSettings) -> Iterator[ObjectStore]:
    """The same bucket through a line that breaks after the headers of the first request."""

    def pass_headers(client: socket.socket, server: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(65_536)
        server.sendall(received[: received.index(b"\r\n\r\n") + 4])
        server.shutdown(socket.SHUT_WR)
        server.recv(65_536)  # what was asked for is done or refused

    with _open_through(store_settings, pass_headers) as result:
        yield result


@contextmanager
def _open_through(
    settings: StoreSettings, serve_first: Callable[[socket.socket, socket.socket], None]
) -> Iterator[ObjectStore]:
    """Opens the bucket through a line whose first connection, of client and server, ends after `serve_first`."""
    host, port = settings.endpoint.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    opened = [listener]
    threads: list[threading.Thread] = []

    def begin(function: Callable[..., None], *arguments: Any) -> None:
        threads.append(threading.Thread(target=function, args=arguments))
        threads[-1].start()

    def serve(client: socket.socket, server: socket.socket) -> None:
        serve_first(client, server)
        _hang_up(client)
        _hang_up(server)

    def accept() -> None:
        with suppress(OSError):
            for number in count():
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                opened.extend((client, server))
                if number == 0:
                    begin(serve, client, server)
                else:
                    begin(_pump, client, server)
                    begin(_pump, server, client)

    begin(accept)
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield ObjectStore(settings.model_copy(update={"endpoint": endpoint}))
    for line in opened:
        _hang_up(line)
    for thread in threads:
        thread.join()
    for line in opened:
        line.close()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)


def test_a_conditional_write_whose_answer_was_lost_is_still_ours(forgetful: ObjectStore) -> None:
    assert forgetful.put_if_absent("lost-answer", b"ours")
    assert forgetful.get("lost-answer") == b"ours"


def test_a_conditional_write_that_another_won_meanwhile_is_not_ours(store: ObjectStore, forgetful: ObjectStore) -> None:
    store.put("lost-and-theirs", b"theirs")
    assert not forgetful.put_if_absent("lost-and-theirs", b"ours")
    assert store.get("lost-and-theirs") == b"theirs"


def test_a_write_that_ended_before_its_body_leaves_nothing(store: ObjectStore, interrupted: ObjectStore) -> None:
    assert interrupted.put_if_absent("no-body", bytes(3000))
    assert store.get("no-body") == bytes(3000)


def test_a_write_into_a_missing_bucket_names_the_bucket(store_settings: StoreSettings) -> None:
    other = ObjectStore(store_settings.model_copy(update={"bucket": "never-made-either"}))
    with pytest.raises(NotFound, match="no such bucket"):
        other.put_if_absent("x", b"y")


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match=f"s3://{store.bucket}/default/no/such"):
        store.get("no/such")


def test_a_missing_bucket_is_named(store_settings: StoreSettings) -> None:
    other = ObjectStore(store_settings.model_copy(update={"bucket": "never-made"}))
    with pytest.raises(NotFound, match="no such"):
        other.get("x")


def test_an_object_over_the_limit_is_refused_before_it_is_read(store: ObjectStore) -> None:
    store.put("large", b"x" * 1000)
    with pytest.raises(InvalidInput, match="1000 bytes, the limit is 999"):
        store.get("large", max_bytes=999)


FOREIGN = (
    "s3://other/x",
    "x",
    "file:///etc/passwd",
    "s3://{bucket}/default/",
    "s3://{bucket}/default/../x",
    "s3://{bucket}/x",
)
ALIASES = (
    "s3://{bucket}/default//x",
    "s3://{bucket}/default/a//x",
    "s3://{bucket}/default/a/./x",
    "s3://{bucket}/default/a/",
    "s3://{bucket}/default/a\0",
)


def test_each_tenant_sees_its_own_objects_alone(store: ObjectStore, tmp_path: Path) -> None:
    ours, theirs = store.of_tenant("radiology"), store.of_tenant("ward-7")
    for one in (ours, theirs):
        one.put("both", one.tenant.encode())
        assert one.put_if_absent("once", one.tenant.encode())
    (tmp_path / "file").write_bytes(b"theirs")
    theirs.upload("file", tmp_path / "file")
    for one in (ours, theirs):
        assert one.get("both") == one.get("once") == one.tenant.encode()
        assert one.first("both", 3) == one.tenant.encode()[:3]
    assert (list(ours.list("")), list(theirs.list(""))) == (["both", "once"], ["both", "file", "once"])
    assert not ours.exists("file")
    ours.delete("both")
    assert theirs.exists("both")
    with pytest.raises(InvalidInput):
        ours.key(theirs.uri("file"))
    assert ours.of_uri(theirs.uri("file")).get("file") == b"theirs"
    assert theirs.guarded_by(lambda: None).tenant == "ward-7"


@pytest.mark.parametrize("uri", [*FOREIGN, *ALIASES])
def test_only_uris_of_the_bucket_are_read(store: ObjectStore, uri: str) -> None:
    with pytest.raises(InvalidInput, match="bucket"):
        store.key(uri.format(bucket=store.bucket))


def test_only_uris_below_the_prefixes_of_a_service_are_read(store: ObjectStore) -> None:
    prefixes = ("features/", "uploads/")
    assert store.key(store.uri("uploads/x"), prefixes) == "uploads/x"
    for key in ("volumes/x", "uploads", "x/uploads/x"):
        with pytest.raises(InvalidInput, match="that this service does not read") as caught:
            store.key(store.uri(key), prefixes)
        assert "one of features/, uploads/" in caught.value.remedy


def test_a_record_of_another_shape_is_refused(store: ObjectStore) -> None:
    store.put("record", b'{"key": 3}')
    with pytest.raises(PreconditionFailed, match="StoredObject"):
        store.read("record", StoredObject)
    store.put("record", b"not json")
    with pytest.raises(PreconditionFailed, match="not JSON"):
        store.get_json("record")


def test_a_bucket_is_created_once(store_settings: StoreSettings) -> None:
    fresh = ObjectStore(store_settings.model_copy(update={"bucket": f"fresh-{secrets.token_hex(4)}"}))
    assert not fresh.has_bucket()
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda _: fresh.ensure_bucket(), range(4)))
    assert any(created)
    assert fresh.has_bucket()
    assert not fresh.ensure_bucket()
