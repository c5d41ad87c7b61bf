"""Reading of a study that is too large, no zip, or at a PACS that never answers: what callers hear, and what counts."""

from __future__ import annotations

import io
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.integration.features.dicom_service import make_declaration

from vfmalign.client.messages.features import PacsReference
from vfmalign.core.domain.errors import (
    BadOption,
    BadVolume,
    Cancelled,
    DeadlineExceeded,
    PacsRefused,
    PacsUnavailable,
    StudyTooLarge,
)
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.metrics import REGISTRY, Stages
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.dicom.folders import PrivateFolders
from vfmalign.features.dicom.reader import DicomReader, DicomRequest
from vfmalign.features.settings import FeaturesOptions
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.dicom.pacs.servers import PacsServer

UID = "1.2.840.4711"
REQUEST = DicomRequest(PacsReference(server="main", study_uid=UID), "")


@pytest.fixture
def card() -> ModelCard:
    return ModelCard.model_construct(
        id="m",
        preprocessing=Preprocessing(modalities=("t2w",), spacing_mm=(3, 1, 1), shape_dhw=(8, 16, 16)),
        declaration=parse_declaration(make_declaration()).to_text(),
    )


@pytest.fixture
def make_reader(tmp_path: Path) -> Iterator[Any]:
    """Makes readers of a PACS that takes connections and never answers."""
    folders = PrivateFolders(tmp_path / "dicom")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def make(timeout_s: float = 60.0, allowed_s: float = 300.0, **settings: Any) -> DicomReader:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = PacsServer(name="main", url=url, timeout_seconds=timeout_s, **settings)
            return DicomReader(
                cast(ObjectStore, None), {"main": server}, folders, FeaturesOptions(dicom_timeout_s=allowed_s)
            )

        yield make
    folders.close()


def count_failures(reason: str) -> float:
    labels = {"server": "main", "operation": "search", "reason": reason}
    return REGISTRY.get_sample_value("vfmalign_pacs_failures_total", labels) or 0.0


def test_a_deadline_that_passes_names_the_pacs_and_counts(make_reader: Any, card: ModelCard) -> None:
    counted, deadline = count_failures("DEADLINE_EXCEEDED"), time.monotonic() + 1.0
    with pytest.raises(DeadlineExceeded, match="PACS main: the deadline passed") as caught:
        make_reader().read(REQUEST, card, Stages(), WorkContext(deadline=deadline))
    assert caught.value.remedy
    assert UID not in str(caught.value)
    assert count_failures("DEADLINE_EXCEEDED") == counted + 1


@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_the_time_that_the_service_allows_names_its_setting(
    make_reader: Any, card: ModelCard, deadline_s: float | None
) -> None:
    reader = make_reader(allowed_s=0.5)
    deadline = None if deadline_s is None else time.monotonic() + deadline_s
    with pytest.raises(DeadlineExceeded, match="PACS main: the deadline passed") as caught:
        reader.read(REQUEST, card, Stages(), WorkContext(deadline=deadline))
    assert caught.value.remedy == "ask an operator to raise VFMALIGN_FEATURES__DICOM_TIMEOUT_S, which is 0.5 s"


def test_certificates_that_cannot_be_read_count_as_a_failure_of_the_pacs(
    make_reader: Any, card: ModelCard, tmp_path: Path
) -> None:
    counted = count_failures("PACS_REFUSED")
    with pytest.raises(PacsRefused, match="PACS main"):
        make_reader(ca_file=tmp_path / "absent.crt").read(REQUEST, card, Stages(), WorkContext())
    assert count_failures("PACS_REFUSED") == counted + 1


@pytest.mark.parametrize(
    ("names", "remedy"),
    [((), "ask an operator"), (("b", "a"), "choose one of a, b, or ask an operator")],
)
def test_an_unknown_pacs_is_told_from_those_that_there_are(
    names: tuple[str, ...], remedy: str, card: ModelCard, tmp_path: Path
) -> None:
    folders = PrivateFolders(tmp_path / "dicom")
    servers = {name: PacsServer(name=name, url="https://pacs.example") for name in names}
    reader = DicomReader(cast(ObjectStore, None), servers, folders, FeaturesOptions())
    with pytest.raises(BadOption, match="the service has no PACS named 'main'") as caught:
        reader.read(REQUEST, card, Stages(), WorkContext())
    folders.close()
    assert caught.value.remedy == f"{remedy} to set VFMALIGN_DICOMWEB__MAIN__URL"


def test_a_deadline_that_had_passed_before_is_no_failure_of_the_pacs(make_reader: Any, card: ModelCard) -> None:
    counted = count_failures("DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceeded):
        make_reader().read(REQUEST, card, Stages(), WorkContext(deadline=time.monotonic() - 1.0))
    assert count_failures("DEADLINE_EXCEEDED") == counted


@pytest.mark.parametrize("ends", ["cancelled", "late"])
def test_a_call_that_ends_between_attempts_counts_as_what_the_first_one_met(
    make_reader: Any, card: ModelCard, ends: str
) -> None:
    counted = count_failures("PACS_UNAVAILABLE")
    before_the_attempt = iter([False, False])
    context = (
        WorkContext(is_cancelled=lambda: next(before_the_attempt, True))
        if ends == "cancelled"
        else WorkContext(deadline=time.monotonic() + 2.5)
    )
    with pytest.raises(PacsUnavailable, match="PACS main: it cannot be reached, or does not answer in time"):
        make_reader(timeout_s=1.0).read(REQUEST, card, Stages(), context)
    assert count_failures("PACS_UNAVAILABLE") == counted + 1


def test_a_call_that_its_caller_cancels_first_is_no_failure(make_reader: Any, card: ModelCard) -> None:
    counted = count_failures("CANCELLED")
    with pytest.raises(Cancelled):
        make_reader().read(REQUEST, card, Stages(), WorkContext(is_cancelled=lambda: True))
    assert count_failures("CANCELLED") == counted


class Uploads:
    """A store with one uploaded file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def size_bytes(self, key: str) -> int:
        return len(self._content)

    def download(self, key: str, path: Path, sha256: str) -> None:
        path.write_bytes(self._content)


def read_upload(content: bytes, card: ModelCard, folder: Path) -> None:
    folders = PrivateFolders(folder)
    reader = DicomReader(cast(ObjectStore, Uploads(content)), {}, folders, FeaturesOptions(dicom_study_bytes=2**20))
    try:
        reader.read(DicomRequest(StoredObject(key="k", sha256="0" * 64), ""), card, Stages(), WorkContext())
    finally:
        folders.close()


def make_zip(size_bytes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(size_bytes))
    return file.getvalue()


@pytest.mark.parametrize("content", [bytes(2**20 + 1), make_zip(2**20 + 1)], ids=["zip", "unpacked"])
def test_a_study_that_is_too_large_names_the_setting(content: bytes, card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(StudyTooLarge, match=r"dicom\.uploaded: the study has more than 1,048,576 bytes") as caught:
        read_upload(content, card, tmp_path / "dicom")
    assert "VFMALIGN_FEATURES__DICOM_STUDY_BYTES" in caught.value.remedy
    assert caught.value.reason == "STUDY_TOO_LARGE"


def test_a_file_that_is_no_zip_is_a_bad_volume_with_a_remedy_for_callers(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(BadVolume, match=r"study\.dicom: the file is not a zip, or is truncated") as caught:
        read_upload(b"\x89PNG\r\n", card, tmp_path / "dicom")
    assert caught.value.reason == "BAD_VOLUME"
    assert caught.value.remedy == "zip the DICOM files of the study, without a password, and upload the zip"
