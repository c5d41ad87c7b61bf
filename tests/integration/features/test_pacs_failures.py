"""Extract of a study at a PACS that misbehaves: status, reason and remedy, and what other callers notice of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from tests import pacs_proxy
from tests.identities import find_marks
from tests.integration.features.conftest import Server
from tests.integration.features.dicom_service import (
    EVE,
    RULES,
    list_scratch,
    open_client,
    read_metrics,
)
from tests.orthanc import Orthanc
from tests.pacs_proxy import Fault, PacsProxy, matching, respond, run_proxy
from tests.token_issuer import bearer

from vfmalign.client import PacsReference
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import PacsUnavailable, VfmalignError
from vfmalign.core.rpc.status_mapping import from_rpc_error, get_status_code
from vfmalign.core.rpc.tensors import to_array
from vfmalign.features.dicom.reader import ATTEMPTS
from vfmalign.v1 import features_pb2 as pb
from vfmalign.v1 import features_pb2_grpc

READERS = 2
DEADLINE_S = 180
MULTIPART = 'multipart/related; type="application/dicom"; boundary=x'
UNAVAILABLE, FAILED, NOT_FOUND = "UNAVAILABLE", "FAILED_PRECONDITION", "NOT_FOUND"

# What the PACS does to a download, the status and the reason.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "401": (respond(401), FAILED, "PACS_REFUSED"),
    "403": (respond(403), FAILED, "PACS_REFUSED"),
    "404": (respond(404), NOT_FOUND, "STUDY_NOT_FOUND"),
    "429 for ten minutes": (respond(429, Retry_After="600"), UNAVAILABLE, "PACS_UNAVAILABLE"),
    "500": (respond(500), UNAVAILABLE, "PACS_UNAVAILABLE"),
    "an empty series": (pacs_proxy.empty_series, FAILED, "BAD_PACS_ANSWER"),
    "half a body": (pacs_proxy.cut, UNAVAILABLE, "PACS_UNAVAILABLE"),
    "half a multipart": (pacs_proxy.end_early, UNAVAILABLE, "PACS_UNAVAILABLE"),
    "a page": (respond(200, b"<html>", Content_Type="text/html"), FAILED, "BAD_PACS_ANSWER"),
    "parts without DICOM": (
        respond(200, b"--x\r\n\r\nZauberberg\r\n--x--\r\n", Content_Type=MULTIPART),
        FAILED,
        "BAD_PACS_ANSWER",
    ),
    "a redirect to another host": (
        respond(302, Location="http://192.0.2.1/dicom-web/studies"),
        FAILED,
        "BAD_PACS_ANSWER",
    ),
    "one byte a second": (pacs_proxy.trickle, UNAVAILABLE, "PACS_UNAVAILABLE"),
    "no answer": (pacs_proxy.say_nothing, UNAVAILABLE, "PACS_UNAVAILABLE"),
    "a dropped connection": (pacs_proxy.drop, UNAVAILABLE, "PACS_UNAVAILABLE"),
}


@pytest.fixture(scope="module")
def proxy(orthanc: Orthanc) -> Iterator[PacsProxy]:
    with run_proxy(orthanc.port) as running:
        yield running


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "dicom"


@pytest.fixture(scope="module")
def service(
    orthanc: Orthanc, proxy: PacsProxy, card: Any, imported: DatasetManifest, scratch: Path,
    store_environment: dict[str, str], caller_settings: dict[str, str], python: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:  # fmt: skip
    settings = {
        **caller_settings,
        **orthanc.to_environment("main", proxy.port, TIMEOUT_SECONDS="4"),
        "VFMALIGN_FEATURES__DICOM_FOLDER": str(scratch),
        "VFMALIGN_FEATURES__DICOM_READERS": str(READERS),
        "VFMALIGN_FEATURES__DICOM_TIMEOUT_S": "1000",
        "VFMALIGN_FEATURES__DICOM_QUEUE_SIZE": str(READERS + 1),
    }
    running = Server(python, store_environment, tmp_path_factory.mktemp("service"), **settings)
    yield running
    assert running.end() == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@pytest.fixture
def stub(service: Server) -> Iterator[features_pb2_grpc.FeatureServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield features_pb2_grpc.FeatureServiceStub(channel)


@pytest.fixture
def request_(study: Path) -> pb.ExtractRequest:
    """Extract of the study at the PACS."""
    header = dcmread(next(study.rglob("*.dcm")), stop_before_pixels=True)
    reference = pb.PacsReference(server="main", study_uid=header.StudyInstanceUID)
    dicom = pb.DicomStudy(reference=reference, rules_dataset_id=RULES)
    return pb.ExtractRequest(model_id="micro", study=pb.Study(dicom=dicom))


def extract(stub: Any, request: pb.ExtractRequest, timeout_s: float = DEADLINE_S) -> Any:
    (layer,) = stub.Extract(request, timeout=timeout_s, metadata=bearer(EVE)).layers
    return to_array(layer.tensor, layer.layer)


def count_faults(service: Server, reason: str) -> dict[str, float]:
    """Failures of Extract with a reason, by the side whose fault they are."""
    name = "vfmalign_calls_failed_total"
    return {
        sample.labels["fault"]: sample.value
        for family in text_string_to_metric_families(read_metrics(service))
        for sample in family.samples
        if sample.name == name and sample.labels["grpc_method"] == "Extract" and sample.labels["reason"] == reason
        if sample.value > 0
    }


def get_error(call: Callable[[], object]) -> VfmalignError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_rpc_error(caught.value, "features")


@pytest.mark.parametrize(("fault", "status", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_pacs_has_a_status_a_reason_and_a_remedy(
    fault: Fault, status: str, reason: str, service: Server, stub: Any, proxy: PacsProxy, scratch: Path,
    request_: pb.ExtractRequest, marks: set[str],
) -> None:  # fmt: skip
    proxy.fault = matching("/series/", fault)
    error = get_error(lambda: extract(stub, request_))
    assert (get_status_code(error).name, error.reason, error.subject) == (status, reason, "PACS main")
    assert error.remedy
    assert list_scratch(scratch) == []
    assert f'operation="download",reason="{reason}",server="main"' in read_metrics(service)
    assert set(count_faults(service, reason)) == {"caller" if reason == "STUDY_NOT_FOUND" else "pacs"}
    assert not find_marks(f"{error}{service.log.read_text()}{read_metrics(service)}".encode(), marks)
    assert str(proxy.port) not in str(error)


def test_the_client_does_not_multiply_the_attempts_of_the_service(
    service: Server, proxy: PacsProxy, request_: pb.ExtractRequest
) -> None:
    proxy.fault = matching("/instances", respond(503))
    proxy.requests.clear()
    reference = request_.study.dicom.reference
    study = PacsReference(server=reference.server, study_uid=reference.study_uid)
    with open_client(service) as client, pytest.raises(PacsUnavailable):
        client.features.extract("micro", dicom=study, rules_dataset_id=RULES)
    assert len(proxy.requests) == ATTEMPTS


def test_a_pacs_that_is_busy_for_a_moment_is_asked_again(
    stub: Any, proxy: PacsProxy, request_: pb.ExtractRequest
) -> None:
    proxy.fault = None
    expected = extract(stub, request_)
    for fault in (respond(429, Retry_After="1"), respond(503), pacs_proxy.cut, pacs_proxy.drop):
        proxy.fault = matching("/series/", fault, times=1)
        np.testing.assert_array_equal(extract(stub, request_), expected)


def test_other_callers_are_served_while_a_pacs_keeps_calls_waiting(
    service: Server,
    stub: Any,
    proxy: PacsProxy,
    request_: pb.ExtractRequest,
    phantoms: Any,
    study_of: Any,
    scratch: Path,
) -> None:
    proxy.fault = matching("/series/", respond(429, Retry_After="300"))
    # One more than the queue takes: whichever arrives last is refused.
    calls = [stub.Extract.future(request_, timeout=1_000, metadata=bearer(EVE)) for _ in range(READERS + 2)]
    while not (ended := [call for call in calls if call.done()]):
        time.sleep(0.05)
    (refused,) = [get_error(call.result) for call in ended]
    assert (refused.reason, refused.retry_after_s is not None) == ("QUEUE_FULL", True)
    waiting = [call for call in calls if call not in ended]
    for _ in range(3):  # volumes neither wait for these calls nor count with them
        extract(stub, pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0])))
    assert not any(call.done() for call in waiting)
    for call in waiting:
        call.cancel()
    proxy.fault = None
    extract(stub, request_)  # the threads are free again
    assert list_scratch(scratch) == []


@pytest.mark.parametrize("slow", [pacs_proxy.say_nothing, pacs_proxy.trickle_chunks])
def test_a_call_ends_at_its_deadline_and_leaves_nothing(
    slow: Fault, service: Server, stub: Any, proxy: PacsProxy, request_: pb.ExtractRequest, scratch: Path
) -> None:
    counted = count_faults(service, "DEADLINE_EXCEEDED").get("pacs", 0)
    proxy.fault = matching("/series/", slow)
    error = get_error(lambda: extract(stub, request_, timeout_s=0.5))
    assert error.reason == "DEADLINE_EXCEEDED"
    # The caller's clock ends the call at the caller; the service counts it and cleans up a moment later.
    for _ in range(200):
        left = list_scratch(scratch) or list(scratch.glob("process-*/tmp*"))
        faults = count_faults(service, "DEADLINE_EXCEEDED")
        if faults.get("pacs", 0) > counted and not left:
            break
        time.sleep(0.1)
    assert faults == {"pacs": counted + 1}
    assert list(scratch.glob("process-*/tmp*")) == []


def test_files_of_a_service_that_was_killed_are_removed_when_the_next_one_starts(
    orthanc: Orthanc, proxy: PacsProxy, start_server: Any, caller_settings: dict[str, str], imported: DatasetManifest,
    request_: pb.ExtractRequest, tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "dicom"
    settings = {
        **caller_settings,
        **orthanc.to_environment("main", proxy.port),
        "VFMALIGN_FEATURES__DICOM_FOLDER": str(folder),
    }
    proxy.fault = stop_after_the_first_series()
    first = start_server(**settings)
    with grpc.insecure_channel(first.address) as channel:
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        call = stub.Extract.future(request_, timeout=DEADLINE_S, metadata=bearer(EVE))
        for _ in range(600):
            if any(name.endswith(".dcm") for name in list_scratch(folder)):
                break
            time.sleep(0.05)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(60)
        assert get_error(call.result).reason == "UNAVAILABLE"
    assert list_scratch(folder)
    second = start_server(**settings)
    assert list_scratch(folder) == []
    assert second.end() == 0
    assert list(folder.glob("process-*")) == []


def stop_after_the_first_series() -> Fault:
    """Forwards one download, and sends nothing of the next ones."""
    downloads: list[str] = []

    def fault(handler: pacs_proxy.Handler) -> bool:
        downloads.append(handler.path)
        return len(downloads) > 1 and pacs_proxy.say_nothing(handler)

    return matching("/series/", fault)
