"""Eight examinations of three vendors, as a zip of DICOM and from a PACS, to a report: by the command line alone.

Nothing that identifies is left anywhere but in the mapping.
"""

from __future__ import annotations

import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from tests.dicom_files import Examination, write_prostate
from tests.e2e.conftest import PHANTOMS
from tests.identities import find_marks, find_marks_in_files, read_audit_events
from tests.integration.cli.commands import call
from tests.orthanc import run_orthanc

from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.v1 import alignment_pb2

pytestmark = pytest.mark.e2e

PATIENTS = 8
VENDORS = ("siemens", "ge", "philips")
SHARES = ["--share", "train=0.5", "--share", "val=0.25", "--share", "test=0.25"]
BUDGET = [
    "--preset", "demo", "--epochs", "1", "--steps-per-epoch", "2", "--set", "recipe.learning_rate=8e-3", "--seeds", "1",
    "--permutations", "99", "--bootstrap", "100",
]  # fmt: skip


UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
UID_ROOTS = ("1.2.826.0.1.3680043.8.498.", "1.2.826.0.1.3680043.10.511.3.")
"""Those of pydicom and highdicom, with which every UID of the examinations begins."""
NAMES, NUMBERS = "Nummer", "MRN-0"
"""With which every given name and every PatientID begins."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Examination]]:
    """A zip of examinations, one of them enhanced, and what identifies their patients."""
    folder = tmp_path_factory.mktemp("export")
    examinations = [
        write_prostate(
            folder / f"DISC{number}",
            generate_case(11, number, PHANTOMS),
            vendor=VENDORS[number % len(VENDORS)],
            enhanced=number == 2,
            patient_name=f"Buddenbrook^{NAMES}{number}",
            patient_id=f"{NUMBERS}{number:04}",
        )
        for number in range(PATIENTS)
    ]
    path = folder / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*.dcm")):
            header = dcmread(file, stop_before_pixels=True)
            assert all(str(header[keyword].value).startswith(UID_ROOTS) for keyword in UIDS if keyword in header)
            packed.write(file, file.relative_to(folder))
    return path, examinations


def list_marks(examinations: list[Examination]) -> set[str]:
    """Everything that identifies, by the beginning that several values have in common where they have one."""
    beginnings = (NAMES, NUMBERS, *UID_ROOTS)
    marks = {mark for examination in examinations for mark in examination.marks}
    return {mark for mark in marks if not mark.startswith(beginnings)} | set(beginnings)


def read_metrics(world: Any) -> dict[str, bytes]:
    metrics: dict[str, bytes] = {}
    for name, service in world.stack.get_state().services.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{service.ports.metrics}/metrics", timeout=30) as response:
            metrics[name] = response.read()
    return metrics


def test_three_commands_lead_from_a_zip_to_a_report(
    world: Any, export: tuple[Path, list[Examination]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, examinations = export
    before = set(world.store.list(""))
    monkeypatch.setattr(tempfile, "tempdir", str(world.home.path / "tmp"))
    home = ["--home", str(world.home.path), "--json"]
    shown = call("dicom", "show", str(path), "--declaration", "prostate_mpmri", "--json")
    imported = call("dataset", "import", str(path), "--id", "clinic", *SHARES, *home)
    task = ["--task", "segmentation", "--label", "gland", "--reports", str(tmp_path)]
    call("check", "clinic", "--model", "micro", "--id", "clinic-gland", *task, *BUDGET, *home)
    assert len(shown.document["studies"]) == PATIENTS
    assert imported.document["strata"]["manufacturer"] == {"siemens": 3, "ge": 3, "philips": 2}
    result = world.get("clinic-gland").result
    assert result.verdict == alignment_pb2.VERDICT_INSUFFICIENT_TRAINING, "2 of the preset's steps"
    assert result.metric.name == "gland_dice"

    marks = list_marks(examinations)
    printed = "".join([shown.out, shown.err, imported.out, imported.err])
    assert find_marks(printed.encode(), marks) == set()
    assert len(list(tmp_path.glob("*.html"))) == 1
    assert find_marks_in_files(tmp_path, marks) == {}
    metrics = read_metrics(world)
    assert set(metrics) == {"features", "mmd", "finetuning", "monitoring"}
    assert {name for name, text in metrics.items() if find_marks(text, marks)} == set()
    # Volumes and weights are never written again.
    keys = [key for key in world.store.list("") if key not in before or not key.endswith((".nii.gz", ".safetensors"))]
    assert any(key.startswith("volumes/clinic/") for key in keys)
    assert any(key.endswith(".safetensors") for key in keys)
    assert {
        key for key in keys if find_marks(key.encode() + b"\n", marks) | find_marks(world.store.get(key), marks)
    } == set()

    events = read_audit_events(world.home.logs)
    assert {"PublishDataset", "CreateCheck", "ExtractDataset", "Compute"} <= set(events)
    assert find_marks("".join(events.values()).encode(), marks) == set()
    searched = {file.relative_to(world.home.path).suffix for file in world.home.path.rglob("*")}
    assert {".log", ".db", ".dat"} <= searched, "logs, databases and the bucket's files"
    ((name, found),) = find_marks_in_files(world.home.path, marks).items()
    assert name == "private/mapping.csv"
    assert found == {NUMBERS, UID_ROOTS[0], examinations[0].issuer}, "the search finds what is there"
    mapping = (world.home.path / name).read_text()
    assert all(examination.study_uid in mapping and examination.patient_id in mapping for examination in examinations)


def test_an_import_from_a_pacs_equals_that_of_its_files(
    world: Any, export: tuple[Path, list[Examination]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, examinations = export
    for variable in ("XDG_CONFIG_HOME", "TMPDIR", "HOME"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    home = ["--home", str(world.home.path), "--json"]
    by_files = call("dataset", "import", str(path), "--id", "clinic", *SHARES, *home)
    with run_orthanc() as orthanc:
        orthanc.store(sorted(path.parent.rglob("*.dcm")))
        for variable, value in orthanc.to_environment().items():
            monkeypatch.setenv(variable, value)
        query = ["--dicomweb", "orthanc", "--query", "PatientID=MRN-*"]
        # Another dataset of the same id would be refused.
        by_query = call("dataset", "import", *query, "--id", "clinic", *SHARES, *home)
    assert by_query.document["digest"] == by_files.document["digest"]
    marks = {mark for examination in examinations for mark in examination.marks}
    texts = [by_query.out, by_query.err]
    assert not [mark for mark in marks if any(mark.lower() in text.lower() for text in texts)]
    assert find_marks_in_files(tmp_path, marks) == {}
    left = find_marks_in_files(world.home.private, marks)
    assert set(left) == {"mapping.csv"}, "the staging folder is gone"
