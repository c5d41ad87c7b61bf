"""`vfmalign dataset import --dicomweb`: what it prints, refuses, leaves and continues."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.identities import find_marks_in_files
from tests.integration.cli.commands import Done, call
from tests.orthanc import Orthanc
from tests.pacs.conftest import SALT, Hospital
from tests.pacs_proxy import matching, respond

from vfmalign.cli import exits
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.importer import prepare_import

EXAMINATION = Path(__file__).parents[3] / "shared" / "data" / "prostatex-dicom" / "ProstateX-0000.zip"
Run = Callable[..., Done]


@pytest.fixture
def hospital(make_hospital: Callable[..., Hospital], monkeypatch: pytest.MonkeyPatch) -> Hospital:
    hospital = make_hospital(3)
    home = hospital.folder / "home/private"
    home.mkdir(parents=True, mode=0o700)
    (home / "salt").write_bytes(SALT)
    for variable, value in hospital.orthanc.to_environment(port=hospital.proxy.port).items():
        monkeypatch.setenv(variable, value)
    return hospital


@pytest.fixture
def run(hospital: Hospital) -> Iterator[Run]:
    """Runs a dry run of an import, whose document has what an import would store."""
    options = ["--declaration", str(hospital.declaration), "--id", "d", "--home", str(hospital.folder / "home")]

    def import_dry(*arguments: str, code: int = 0) -> Done:
        return call("dataset", "import", "--dicomweb", "orthanc", *arguments, *options, "--dry-run", code=code)

    return import_dry


def test_a_dry_run_shows_the_dataset_of_the_files_and_leaves_nothing(hospital: Hospital, run: Run) -> None:
    done = run("--query", "PatientID=PID-*", "--query", "StudyDate=20240101-20241231", "--json")
    assert done.document["digest"] == hospital.import_files()
    assert done.document["layout"] == "dicom"
    assert "dry run: nothing was written" in done.err
    assert [path.name for path in (hospital.folder / "home").rglob("*") if path.is_file()] == ["salt"]


def test_a_list_of_studies_names_splits_and_patients_as_well(hospital: Hospital, run: Run) -> None:
    table = hospital.folder / "studies.csv"
    splits = ("train", "val", "test")
    lines = [f"{study.study_uid},{split}" for study, split in zip(hospital.examinations, splits, strict=True)]
    table.write_text("\n".join(["study,split", *lines]))
    done = run("--studies", str(table), "--splits", str(table), "--json")
    assert [done.document["splits"][split]["cases"] for split in splits] == [1, 1, 1]
    table.write_text("study\nnot-a-uid")
    assert "line 2: not a StudyInstanceUID" in run("--studies", str(table), code=exits.BAD_INPUT).err


def test_problems_are_listed_and_the_others_stay_for_the_next_import(hospital: Hospital, run: Run) -> None:
    second = hospital.examinations[1]
    hospital.proxy.fault = matching(f"/studies/{second.study_uid}/series/", respond(403))
    staging = hospital.folder / "home/private/staging"
    staging.mkdir()
    done = run("--query", "PatientID=PID-*", "--json", code=exits.BAD_INPUT)
    (problem,) = done.document["problems"]
    assert "PACS orthanc: it does not permit the request (403); ask its operator for access" in problem
    printed = done.out + done.err
    assert not [mark for study in hospital.examinations for mark in study.marks if mark in printed]


def test_studies_of_the_server_are_shown_as_those_of_files(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary := hospital.folder / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    options = ["--declaration", str(hospital.declaration), "--json"]
    query = ["--dicomweb", "orthanc", "--query", "PatientID=PID-*"]
    shown = call("dicom", "show", *query, *options)
    assert shown.document == call("dicom", "show", str(hospital.files), *options).document
    assert list(temporary.iterdir()) == []
    for arguments, text in (
        ([str(hospital.files), *query], "exactly one source is needed"),
        (query[:2], "--dicomweb: it needs --query"),
        ([*query[:3], "PatientID=nobody"], "no study matches the query"),
    ):
        assert text in call("dicom", "show", *arguments, code=exits.BAD_INPUT).err


def test_a_server_that_refuses_the_credentials_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFMALIGN_DICOMWEB__ORTHANC__USERNAME", "nobody")
    done = run("--query", "PatientID=PID-*", "--json", code=exits.REFUSED)
    assert done.document["error"]["reason"] == "PACS_REFUSED"
    assert done.document["error"]["subject"] == "PACS orthanc"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "it needs one of --query and --studies"),
        (("--query", "PatientID=1", "--studies", "s.csv"), "--query and --studies exclude each other"),
        (("--query", "limit=1"), "a key is no attribute"),
        (("--query", "PatientID"), "the value of PatientID is not valid"),
        (("--query", "PatientID=1", "--query", "PatientID=2"), "a key is given twice"),
        (("files", "--query", "PatientID=1"), "it replaces DIR and --layout"),
        (("--query", "PatientID=1", "--layout", "bids"), "it replaces DIR and --layout"),
        (("--query", "PatientID=nobody"), "no study matches the query"),
        (("--query", "PatientID=PID-*", "--max-staging", "inf"), "value for '--max-staging'"),
        (("--query", "PatientID=PID-*", "--max-staging", "0.001"), None),
    ],
)
def test_options_that_contradict_each_other_are_bad_input(run: Run, arguments: tuple[str, ...], text: str) -> None:
    done = run(*arguments, code=exits.BAD_INPUT if text else exits.OK)
    assert text is None or text in done.err


def test_a_real_examination_equals_its_files(orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not EXAMINATION.is_file():
        pytest.skip("the real examination ../shared/data/prostatex-dicom is not on this machine")
    options = ImportOptions(layout="dicom")
    mapping = tmp_path / "mapping.csv"
    by_files = prepare_import(EXAMINATION, "d", options, mapping_path=mapping, salt=SALT).dataset
    with zipfile.ZipFile(EXAMINATION) as content:
        content.extractall(tmp_path / "files")
    orthanc.store(path for path in sorted((tmp_path / "files").rglob("*")) if path.is_file())
    try:
        (tmp_path / "home/private").mkdir(parents=True)
        (tmp_path / "home/private/salt").write_bytes(SALT)
        for variable, value in orthanc.to_environment().items():
            monkeypatch.setenv(variable, value)
        query = ["--dicomweb", "orthanc", "--query", "PatientID=ProstateX-*", "--id", "d", "--dry-run", "--json"]
        done = call("dataset", "import", *query, "--home", str(tmp_path / "home"))
    finally:
        orthanc.clear()
    assert done.document["digest"] == by_files.digest()
    assert find_marks_in_files(tmp_path / "home", ["ProstateX-0000"]) == {}
    assert json.loads(done.out)["problems"] == []


def test_studies_are_left_out_and_series_chosen_by_number(hospital: Hospital, run: Run) -> None:
    query = ("--query", "PatientID=PID-*")
    done = run(*query, "--exclude", "1", "--choose", "2:t2w=1", "--share", "train=1", "--json")
    assert done.document["splits"]["train"]["cases"] == 2
    assert [note for note in done.document["notes"] if note.startswith("left out: case 1 of 3")]
    assert done.document["digest"] != run(*query, "--exclude", "1", "--share", "train=1", "--json").document["digest"]
    refused = run(*query, "--choose", "2:t2w=99", code=exits.BAD_INPUT)
    assert "a study has no series 99 that t2w could take" in refused.err
