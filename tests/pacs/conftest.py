"""A real PACS with small studies, a proxy before it, and the declaration that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.dicom_files import Examination, make_array, make_series, save
from tests.orthanc import Orthanc, run_orthanc
from tests.pacs_proxy import PacsProxy, run_proxy

from vfmalign.imaging.datasets.discovery import ImportOptions, name_cases
from vfmalign.imaging.datasets.importer import prepare_import
from vfmalign.imaging.datasets.layouts import dicomweb
from vfmalign.imaging.datasets.layouts.derivation import read_declaration
from vfmalign.imaging.datasets.layouts.sources import DicomOptions, ignore_progress
from vfmalign.imaging.datasets.layouts.staging import StagingFolder
from vfmalign.imaging.datasets.preparation import PreparedDataset, prepare
from vfmalign.imaging.dicom.pacs.client import PacsClient, PacsLimits

DECLARATION = {
    "name": "tiny",
    "modalities": ["t2w"],
    "labels": [{"name": "gland", "values": {"1": "gland"}}],
    "selections": [{"name": "t2w", "conditions": {"Modality": "MR"}}],
}
SALT = bytes(32)
LIMITS = PacsLimits(attempts=2, first_wait_s=0.01)


def write_studies(folder: Path, count: int, slices: int = 4) -> list[Examination]:
    """Writes small studies of one series, each of a patient of its own."""
    examinations = []
    for number in range(count):
        examination = Examination(patient_id=f"PID-{number:05}", patient_name=f"Castorp^Hans{number}")
        array = make_array((32, 32, slices), seed=number)
        save(make_series(array, examination=examination), folder / f"{examination.patient_name}")
        examinations.append(examination)
    return sorted(examinations, key=lambda examination: examination.study_uid)


@dataclass
class Hospital:
    """A PACS with studies, which a client reaches through a proxy.

    Attributes:
        folder: temporary, of one test.
        files: the studies as files.
        examinations: in order of identifier.
    """

    orthanc: Orthanc
    proxy: PacsProxy
    folder: Path
    files: Path
    examinations: list[Examination]

    @property
    def declaration(self) -> Path:
        """The declaration's file."""
        path = self.folder / "tiny.json"
        path.write_text(json.dumps(DECLARATION))
        return path

    @property
    def options(self) -> ImportOptions:
        """Options of an import."""
        declared = read_declaration(str(self.declaration))
        return ImportOptions(layout="dicom", declaration=declared.declaration, dicom=DicomOptions(declared.selections))

    def import_files(self) -> str:
        """Imports the files; returns the digest of the dataset."""
        mapping = self.folder / "mapping.csv"
        return prepare_import(self.files, "d", self.options, mapping_path=mapping, salt=SALT).dataset.digest()

    def import_studies(self, limits: PacsLimits = LIMITS, **server: float) -> PreparedDataset:
        """Imports the studies through the proxy, as far as the upload."""
        client = PacsClient(self.orthanc.make_server(self.proxy.port, **server), limits)
        staging = StagingFolder(self.folder / "staging", 2**30)
        options = self.options
        with staging.open():
            studies = dicomweb.PacsStudies(client, {"PatientID": "PID-*"})
            source = dicomweb.read(studies, options.declaration, options.dicom, staging)
            discovered = name_cases("dicom", source, "d", SALT, options)
            prepared = prepare(discovered, "d", options, ignore_progress)
            labels = {problem.case for problem in prepared.problems}
            staging.forget([case.source.name for case in discovered.cases if case.label in labels])
        client.close()
        return prepared


@pytest.fixture(scope="package")
def orthanc() -> Iterator[Orthanc]:
    """A PACS that the tests share."""
    with run_orthanc() as orthanc:
        yield orthanc


@pytest.fixture
def make_hospital(orthanc: Orthanc, tmp_path: Path) -> Iterator[Callable[[int], Hospital]]:
    """Fills the PACS with a number of studies, and puts a proxy before it."""
    with run_proxy(orthanc.port) as proxy:

        def make(count: int, slices: int = 4) -> Hospital:
            examinations = write_studies(tmp_path / "files", count, slices)
            orthanc.store(sorted((tmp_path / "files").rglob("*.dcm")))
            return Hospital(orthanc, proxy, tmp_path, tmp_path / "files", examinations)

        yield make
        orthanc.clear()
