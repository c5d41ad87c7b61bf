"""What an import does where a PACS refuses, breaks off, lies or is slow: it goes on with the others, and continues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests import pacs_proxy
from tests.pacs.conftest import LIMITS, Hospital
from tests.pacs_proxy import Fault, matching, respond, run_proxy

from vfmalign.core.domain.errors import (
    BadPacsAnswer,
    PacsRefused,
    PacsUnavailable,
    StudyNotFound,
    StudyTooLarge,
    VfmalignError,
)
from vfmalign.imaging.dicom.pacs import client as client_module
from vfmalign.imaging.dicom.pacs.client import PacsClient, PacsLimits

MULTIPART = 'multipart/related; type="application/dicom"; boundary=x'
ZIP = {"Content_Type": "application/zip"}
FAULTS: dict[str, tuple[Fault, str, int]] = {
    "401": (respond(401), "it rejects the credentials (401); correct the credentials", 1),
    "403": (respond(403), "it does not permit the request (403); ask its operator", 1),
    "404": (respond(404), "it has no such data (404); check the study", 1),
    "429": (respond(429, Retry_After="0"), "it answers with status 429; try again later", 2),
    "500": (respond(500), "it answers with status 500; try again later", 2),
    "503": (respond(503), "it answers with status 503; try again later", 2),
    "teapot": (respond(418), "it answers with status 418", 1),
    "empty series": (pacs_proxy.empty_series, "it answers with fewer instances than it lists", 2),
    "nothing": (respond(204), "it answers with fewer instances than it lists", 2),
    "half": (pacs_proxy.cut, "its answer ended early; try again later", 2),
    "half as a whole": (pacs_proxy.end_early, "its answer ended early; try again later", 2),
    "another type": (respond(200, b"PK", **ZIP), "it answers with an unexpected type of content", 1),
    "no type": (respond(200, b"PK"), "it answers with an unexpected type of content", 1),
    "no boundary": (respond(200, b"--x--", Content_Type='multipart/related; type="application/dicom"'),
                    "in parts with a boundary", 1),
    "another boundary": (respond(200, b"--y\r\n\r\n--y--", Content_Type=MULTIPART), "do not match its boundary", 1),
    "no instance": (respond(200, b"--x\r\n\r\nMZ\r\n--x--", Content_Type=MULTIPART), "a part that is not a DICOM", 1),
    "compressed": (respond(200, b"", Content_Type=MULTIPART, Content_Encoding="gzip"), "unexpected type of content", 1),
    "dropped": (pacs_proxy.drop, "it cannot be reached, or does not answer in time", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_study_that_cannot_be_fetched_is_a_problem_and_the_others_go_on(
    make_hospital: Callable[..., Hospital], name: str
) -> None:
    fault, text, requests = FAULTS[name]
    hospital = make_hospital(3)
    second = hospital.examinations[1]
    hospital.proxy.fault = matching(f"/studies/{second.study_uid}/series/", fault)
    prepared = hospital.import_studies()
    (problem,) = prepared.problems
    assert problem.case.startswith("case 2 of 3, c-")
    assert f"PACS orthanc: {text}" in problem.text or text in problem.text
    assert not any(mark in problem.text for mark in (*second.marks, "127.0.0.1"))
    downloads = hospital.proxy.list_downloads()
    assert sum(second.study_uid in path for path in downloads) == requests, "4xx and nonsense are not tried again"
    hospital.proxy.fault = None
    hospital.proxy.requests.clear()
    repeated = hospital.import_studies()
    assert repeated.problems == ()
    assert repeated.dataset.digest() == hospital.import_files()
    assert all(second.study_uid in path for path in hospital.proxy.list_downloads()), "the others are staged"


@pytest.mark.parametrize("slow", [pacs_proxy.trickle, pacs_proxy.stall, pacs_proxy.say_nothing])
def test_a_slow_answer_ends_with_the_timeout(
    make_hospital: Callable[..., Hospital], slow: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    hospital = make_hospital(3)
    hospital.proxy.fault = matching(f"/studies/{hospital.examinations[0].study_uid}/series/", slow)
    prepared = hospital.import_studies(timeout_seconds=1.0)
    (problem,) = prepared.problems
    assert "it sends its answer too slowly" in problem.text or "does not answer in time" in problem.text
    assert not any(examination.study_uid in caplog.text for examination in hospital.examinations)


def test_what_passes_is_tried_again_after_the_stated_time(
    make_hospital: Callable[..., Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = make_hospital(3)
    waits: list[float] = []
    monkeypatch.setattr(client_module, "_sleep", lambda wait_s, context: waits.append(wait_s))
    hospital.proxy.fault = matching("/series/", respond(429, Retry_After="7"), times=1)
    assert hospital.import_studies().problems == ()
    assert waits == [7.0]
    hospital.proxy.fault = matching("/studies", respond(503, Retry_After="86400"), times=1)
    hospital.import_studies()
    assert waits == [7.0, 300.0], "at most five minutes"


def test_a_redirect_is_not_followed(make_hospital: Callable[..., Hospital]) -> None:
    hospital = make_hospital(3)
    with run_proxy(hospital.orthanc.port) as elsewhere:
        address = f"http://127.0.0.1:{elsewhere.port}/dicom-web/studies"
        for status in (301, 302, 307, 308):
            hospital.proxy.fault = matching("/series/", respond(status, Location=address), times=1)
            (problem,) = hospital.import_studies().problems
            assert "it answers with a redirect, which is not followed" in problem.text
        assert elsewhere.requests == []


SEARCHES: dict[str, tuple[Fault, type[VfmalignError]]] = {
    "401": (respond(401), PacsRefused),
    "404": (respond(404), StudyNotFound),
    "500": (respond(500), PacsUnavailable),
    "redirect": (respond(302, Location="http://example.invalid"), BadPacsAnswer),
    "dropped": (pacs_proxy.drop, PacsUnavailable),
    "half": (pacs_proxy.cut, PacsUnavailable),
    "a page": (respond(200, b"<html>", Content_Type="text/html"), BadPacsAnswer),
    "not JSON": (respond(200, b"[{", Content_Type="application/dicom+json"), BadPacsAnswer),
    "nested": (respond(200, b"[" * 10_000, Content_Type="application/json"), BadPacsAnswer),
    "no list": (respond(200, b'{"error": 1}', Content_Type="application/json"), BadPacsAnswer),
    "no identifier": (respond(200, b'[{"0020000D": {"Value": ["../../etc"]}}]', Content_Type="application/json"),
                      BadPacsAnswer),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_without_an_answer_ends_the_import(make_hospital: Callable[..., Hospital], name: str) -> None:
    hospital = make_hospital(1)
    hospital.proxy.fault, expected = SEARCHES[name]
    with pytest.raises(expected) as raised:
        hospital.import_studies()
    assert raised.value.subject == "PACS orthanc"
    assert raised.value.remedy
    assert "127.0.0.1" not in str(raised.value)


def test_the_import_stops_where_the_server_is_away(make_hospital: Callable[..., Hospital]) -> None:
    hospital = make_hospital(6)
    first = hospital.examinations[0].study_uid
    hospital.proxy.fault = lambda handler: (
        f"/studies/{first}/" not in handler.path and matching("/series/", pacs_proxy.drop)(handler)
    )
    with pytest.raises(PacsUnavailable, match="1 of 6 studies are staged, and the same command continues"):
        hospital.import_studies()
    downloads = hospital.proxy.list_downloads()
    assert len(downloads) <= 4 * LIMITS.attempts, "three studies, and the one ahead"
    hospital.proxy.fault = None
    assert hospital.import_studies().dataset.digest() == hospital.import_files()


@pytest.mark.parametrize(("status", "is_stopped"), [(401, True), (403, False)])
def test_the_import_stops_where_the_server_rejects_the_credentials(
    make_hospital: Callable[..., Hospital], status: int, is_stopped: bool
) -> None:
    hospital = make_hospital(6)
    hospital.proxy.fault = matching("/instances", respond(status))
    if is_stopped:
        with pytest.raises(PacsRefused, match="0 of 6 studies are staged"):
            hospital.import_studies()
        asked = [path for path in hospital.proxy.requests if path.endswith("/instances")]
        assert len(asked) <= 4, "three studies, and the one ahead"
    else:
        assert len(hospital.import_studies().problems) == 6, "others may be permitted"


def test_half_a_series_is_not_fetched_twice(make_hospital: Callable[..., Hospital]) -> None:
    hospital = make_hospital(1, slices=16)
    hospital.proxy.fault = matching("/series/", pacs_proxy.cut, times=1)
    assert hospital.import_studies().problems == ()
    first, *others = hospital.proxy.list_downloads()
    assert first.endswith(others[0].partition("/series/")[2].partition("/")[0]), "the whole series"
    assert all("/instances/" in path for path in others)
    assert 4 <= len(others) <= 12, "what the half did not hold"


def download(client: PacsClient, study_uid: str, hospital: Hospital) -> None:
    client.download(study_uid, client.list_instances(study_uid), hospital.folder / "d")


def test_a_study_that_is_too_large_is_a_problem_and_no_bad_answer(make_hospital: Callable[..., Hospital]) -> None:
    hospital = make_hospital(2)
    client = PacsClient(hospital.orthanc.server, PacsLimits(study_bytes=10_000))
    with pytest.raises(StudyTooLarge, match="PACS orthanc: the study has more than 10,000 bytes"):
        download(client, hospital.examinations[0].study_uid, hospital)
    prepared = hospital.import_studies(PacsLimits(study_bytes=10_000))
    assert ["more than 10,000 bytes" in problem.text for problem in prepared.problems] == [True, True]


@pytest.mark.parametrize("limits", [PacsLimits(instances=3), PacsLimits(studies=1)], ids=str)
def test_answers_beyond_a_limit_are_refused(make_hospital: Callable[..., Hospital], limits: PacsLimits) -> None:
    hospital = make_hospital(2)
    client = PacsClient(hospital.orthanc.server, limits)
    with pytest.raises(BadPacsAnswer):  # noqa: PT012 - the search, the list or the download
        for study in client.find_studies({"PatientID": "PID-*"}):
            download(client, study.study_uid, hospital)


def test_a_page_is_not_the_whole_and_a_repeated_one_ends_the_search(
    make_hospital: Callable[..., Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = make_hospital(5)
    client = PacsClient(hospital.orthanc.make_server(hospital.proxy.port), LIMITS)
    monkeypatch.setattr(client_module, "_PAGE", 2)
    assert [study.study_uid for study in sorted(client.find_studies({"PatientID": "PID-*"}))] == [
        examination.study_uid for examination in hospital.examinations
    ]
    assert len(hospital.proxy.requests) == 4

    def ignore_offset(handler: pacs_proxy.Handler) -> bool:
        handler.path = handler.path.partition("&limit")[0]
        return False

    hospital.proxy.fault = ignore_offset
    assert len(list(client.find_studies({"PatientID": "PID-*"}))) == 5
