"""What the client does where an upload fails."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tenacity import wait_none

from vfmalign.client import uploader
from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.client.messages.imports import PublishModelRequest
from vfmalign.client.uploader import Uploader
from vfmalign.core.domain.errors import BadOption, DigestMismatch, StoreUnavailable
from vfmalign.core.domain.models import Preprocessing
from vfmalign.v1 import features_pb2, imports_pb2

SECRET = "X-Amz-Signature=secret"


class Store(ThreadingHTTPServer):
    """An object store whose answers are given: a status for each request, or 0 for a connection that breaks."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.signed = list(answers), 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    async def sign(self, files: Sequence[FileContent]) -> list[FileUpload]:
        self.signed += 1
        url = f"http://127.0.0.1:{self.server_port}/b/k?{SECRET}"
        return [FileUpload(sha256=file.sha256, url=url) for file in files]


class _Handler(BaseHTTPRequestHandler):
    server: Store

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if not (status := self.server.answers.pop(0)):
            self.connection.close()
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<Error><Code>BadDigest</Code></Error>" if status == 400 else b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def open_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Store]]:
    monkeypatch.setattr(uploader, "wait_random_exponential", lambda **_: wait_none())
    stores: list[Store] = []

    def open_one(*answers: int) -> Store:
        stores.append(Store(*answers))
        return stores[-1]

    yield open_one
    for store in stores:
        store.shutdown()
        store.server_close()


async def test_an_expired_url_and_a_broken_connection_are_tried_again(open_store: Callable[..., Store]) -> None:
    store = open_store(403, 0, 200)
    (sha256,) = await Uploader().upload([b"a"], store.sign)
    assert sha256 == hashlib.sha256(b"a").hexdigest()
    assert (store.signed, store.answers) == (3, [])


async def test_a_large_file_is_sent_in_blocks_each_with_a_timeout_of_its_own(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One send of everything would have to end within the timeout of the connection's set-up, 5 s."""
    sizes: list[int] = []
    send = socket.socket.sendall

    def record(connection: socket.socket, data: bytes) -> None:
        sizes.append(len(data))
        send(connection, data)

    monkeypatch.setattr(socket.socket, "sendall", record)
    await Uploader().upload([bytes(2**20)], open_store(200).sign)
    assert sum(sizes) > 2**20
    assert max(sizes) <= 2**16


async def test_a_store_that_stays_away_is_named_without_the_url(open_store: Callable[..., Store]) -> None:
    store = open_store(*[0] * uploader._ATTEMPTS)
    with pytest.raises(StoreUnavailable, match="VFMALIGN_PRESIGNED_ENDPOINT") as caught:
        await Uploader().upload([b"a"], store.sign)
    assert caught.value.subject == f"127.0.0.1:{store.server_port}"
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, r"answers with errors \(HTTP 500\); its disk may be full; ask an operator to check its free disk space"),
        (507, r"the disk of the object store is full \(HTTP 507\); ask an operator"),
        (403, r"refused an upload \(HTTP 403\); upload it again, .* compare the clocks"),
    ],
)
async def test_a_full_disk_is_told_from_a_refusal(status: int, message: str, open_store: Callable[..., Store]) -> None:
    store = open_store(*[status] * uploader._ATTEMPTS)
    with pytest.raises(StoreUnavailable, match=message) as caught:
        await Uploader().upload([b"a"], store.sign)
    assert ("clock" in str(caught.value)) == (status == 403)


async def test_bytes_that_arrive_changed_are_not_sent_again(open_store: Callable[..., Store]) -> None:
    with pytest.raises(DigestMismatch, match="upload it again"):
        await Uploader().upload([b"a"], open_store(400).sign)


class HugeFile(bytes):
    def __len__(self) -> int:
        return 5 * 2**30 + 1


async def test_a_file_that_is_too_large_is_refused_before_the_service_is_asked(
    open_store: Callable[..., Store],
) -> None:
    store = open_store(200)
    with pytest.raises(BadOption, match="size_bytes: out of range; choose a value of at most 5368709120"):
        await Uploader().upload([HugeFile(b"a")], store.sign)
    assert not store.signed


REQUEST = {"import_id": "i", "model_id": "m", "weights_sha256": "a" * 64, "architecture": "x"}


@pytest.mark.parametrize(
    "spec",
    [
        Preprocessing(modalities=("t2w", "dwi"), spacing_mm=None, shape_dhw=(8, 16, 16)),
        Preprocessing(
            modalities=("t1w",),
            spacing_mm=(1.0, 0.1, 2.5),
            shape_dhw=(8, 16, 16),
            normalisation="quantile_range",
            quantiles=(0.01, 0.99),
            reference="flair",
        ),
    ],
)
def test_the_input_of_a_model_survives_the_message(spec: Preprocessing) -> None:
    request = PublishModelRequest(**REQUEST, preprocessing=spec)
    assert PublishModelRequest.from_proto(request.to_proto()).preprocessing == spec


def test_empty_fields_of_an_input_have_their_defaults() -> None:
    content = {"modalities": ("dwi",), "shape_dhw": (8, 8, 8), "normalisation": "zscore_gland"}
    message = features_pb2.Preprocessing(**content)
    request = PublishModelRequest.from_proto(imports_pb2.PublishModelRequest(**REQUEST, preprocessing=message))
    assert request.preprocessing == Preprocessing(**content)
    assert (request.preprocessing.reference, request.preprocessing.spacing_mm) == ("t2w", None)
    assert request.preprocessing.quantiles is None


@pytest.mark.parametrize(
    ("change", "field"),
    [({"shape_dhw": (8, 8)}, "preprocessing.shape_dhw[2]"), ({"quantiles": (0.1, 0.9)}, "preprocessing")],
)
def test_a_wrong_input_is_named_as_in_the_request(change: dict[str, object], field: str) -> None:
    content = {"modalities": ("t2w",), "shape_dhw": (8, 8, 8), "normalisation": "zscore_nonzero"} | change
    message = imports_pb2.PublishModelRequest(**REQUEST, preprocessing=features_pb2.Preprocessing(**content))
    with pytest.raises(BadOption) as caught:
        PublishModelRequest.from_proto(message)
    assert caught.value.field == field
