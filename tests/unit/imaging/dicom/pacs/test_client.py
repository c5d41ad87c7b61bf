"""A client's bounds on what a PACS sends, and on how long it takes to."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests import pacs_proxy
from tests.pacs_proxy import Fault, PacsProxy, respond, run_proxy

from vfmalign.core.domain.errors import BadPacsAnswer, DeadlineExceeded, PacsRefused, PacsUnavailable
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.imaging.dicom.pacs import session as session_module
from vfmalign.imaging.dicom.pacs.client import MAX_SEARCH_BYTES, PacsClient, PacsLimits
from vfmalign.imaging.dicom.pacs.servers import PacsServer

JSON = "application/dicom+json"
ENDLESS = [pacs_proxy.trickle_chunks, pacs_proxy.stall, pacs_proxy.say_nothing]


@pytest.fixture
def proxy() -> Iterator[PacsProxy]:
    with run_proxy(0) as proxy:
        yield proxy


def make_server(proxy: PacsProxy, timeout_s: float = 60.0) -> PacsServer:
    return PacsServer(name="ward", url=f"http://127.0.0.1:{proxy.port}", timeout_seconds=timeout_s)


def make_client(proxy: PacsProxy, timeout_s: float = 60.0) -> PacsClient:
    return PacsClient(make_server(proxy, timeout_s), PacsLimits(attempts=1))


def search(proxy: PacsProxy) -> list[str]:
    return [study.study_uid for study in make_client(proxy).find_studies({})]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ENDLESS)
def test_an_answer_without_an_end_ends_with_the_timeout(proxy: PacsProxy, fault: Fault) -> None:
    proxy.fault = fault
    with pytest.raises(PacsUnavailable, match=r"it sends its answer too slowly|does not answer in time"):
        make_client(proxy, timeout_s=1.0).list_instances("1.2")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ENDLESS)
def test_an_answer_without_an_end_ends_with_the_deadline(proxy: PacsProxy, fault: Fault) -> None:
    proxy.fault = fault
    with pytest.raises(DeadlineExceeded):
        make_client(proxy).list_instances("1.2", context=WorkContext(time.monotonic() + 1.0))


def test_a_pause_of_the_reader_is_not_the_servers(proxy: PacsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    paused_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + paused_s[0])
    monkeypatch.setattr(session_module, "time", clock)
    proxy.fault = respond(200, bytes(2**20), Content_Type=JSON)
    session = session_module.PacsSession(make_server(proxy))
    with session.get("/studies", JSON, UNLIMITED) as answer:
        size_bytes = len(answer.read())
        paused_s[0] = 3_600.0
        size_bytes += sum(len(data) for data in iter(answer.read, b""))
    assert size_bytes == 2**20


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b'{"":[]},' * 256_000 + b"1]", id="groups"),
        pytest.param(b"[" + b" " * MAX_SEARCH_BYTES + b"]", id="bytes"),
    ],
)
def test_a_search_answer_that_would_take_much_memory_is_refused(proxy: PacsProxy, body: bytes) -> None:
    proxy.fault = respond(200, body, Content_Type=JSON)
    with pytest.raises(BadPacsAnswer, match="more than"):
        search(proxy)


def test_a_page_of_results_with_many_attributes_is_read(proxy: PacsProxy) -> None:
    others = {f"0028{number:04}": {"vr": "US", "Value": [number]} for number in range(100)}
    results = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}, **others} for number in range(1_000)]
    proxy.fault = respond(200, json.dumps(results, separators=(",", ":")).encode(), Content_Type=JSON)
    assert search(proxy) == [f"1.2.{number}" for number in range(1_000)]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"[]", mtime=0)),
        ("x-gzip", gzip.compress(b"[]", mtime=0)),
        ("deflate", zlib.compress(b"[]")),
        ("identity, gzip", gzip.compress(b"[]", mtime=0)),
    ],
)
def test_compressed_content_is_refused_and_not_inflated(proxy: PacsProxy, encoding: str, body: bytes) -> None:
    proxy.fault = respond(200, body, Content_Type=JSON, Content_Encoding=encoding)
    with pytest.raises(BadPacsAnswer, match="an unexpected type of content"):
        search(proxy)


def test_a_token_that_no_header_can_hold_is_refused_and_not_quoted(proxy: PacsProxy, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("gehe\N{EURO SIGN}m")
    server = make_server(proxy).model_copy(update={"token_file": tmp_path / "token"})
    with pytest.raises(PacsRefused, match="PACS ward: the file with its token contains non-ASCII") as raised:
        PacsClient(server).list_instances("1.2")
    assert "gehe" not in str(raised.value)
    assert proxy.requests == []


def test_a_compressed_transfer_is_refused_and_not_inflated(proxy: PacsProxy) -> None:
    proxy.fault = respond(200, gzip.compress(b"[]", mtime=0), Content_Type=JSON, Transfer_Encoding="gzip")
    with pytest.raises(BadPacsAnswer, match="something other than JSON"):
        search(proxy)
