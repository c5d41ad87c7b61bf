"""The search beside that of dicomweb-client, which is another implementation of QIDO-RS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from tests.pacs.conftest import Hospital

from vfmalign.imaging.dicom.pacs.client import PacsClient

STUDY, SERIES, INSTANCE, PATIENT, ISSUER = "0020000D", "0020000E", "00080018", "00100020", "00100021"


def get_text(answer: dict[str, Any], tag: str) -> str:
    return str(answer[tag]["Value"][0])


@pytest.mark.parametrize("query", [{}, {"PatientID": "PID-00001"}, {"ModalitiesInStudy": "CT"}])
def test_studies_and_instances_are_those_that_another_client_finds(
    make_hospital: Callable[[int], Hospital], query: dict[str, str]
) -> None:
    hospital = make_hospital(3)
    server = hospital.orthanc.server
    assert server.password_file is not None
    session = create_session_from_user_pass(server.username, server.password_file.read_text())
    with closing(PacsClient(server)) as client, session:
        other = DICOMwebClient(server.url, session=session)
        answers = other.search_for_studies(search_filters=query, fields=[ISSUER])
        found = sorted(client.find_studies(query))
        assert [(study.study_uid, study.patient) for study in found] == sorted(
            (get_text(answer, STUDY), f"{get_text(answer, PATIENT)}^^^{get_text(answer, ISSUER)}") for answer in answers
        )
        for study in found:
            listed = other.search_for_instances(study.study_uid, fields=[SERIES])
            assert client.list_instances(study.study_uid) == sorted(
                (get_text(answer, SERIES), get_text(answer, INSTANCE)) for answer in listed
            )
    assert len(found) == {"": len(hospital.examinations), "PatientID": 1, "ModalitiesInStudy": 0}[next(iter(query), "")]
