"""Examinations in DICOM from a zip to features, by the command line, without anything that identifies a patient."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from tests.dicom_contours import to_contour, write_structure_set
from tests.dicom_files import write_prostate
from tests.identities import find_marks, find_marks_in_files
from tests.integration.features.callers import ADA, VIEWER
from tests.integration.features.conftest import SPEC

from vfmalign.cli import exits
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomCase, generate_case

SECRETS = {"device": "SN-31337-77", "comment": "Schwester Ottilie", "private": "Ziemssen"}
EXAMINATIONS = (
    {"vendor": "siemens", "patient_name": "Müller-Lüdenscheidt^Jörg", "character_set": "ISO_IR 100"},
    {
        "vendor": "ge",
        "patient_name": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "character_set": ["ISO 2022 IR 6", "ISO 2022 IR 87"],
    },
    {"vendor": "philips", "patient_name": "Zhangsan^Xiaodong=张三^小东", "character_set": "GB18030", "enhanced": True},
    {"vendor": "siemens-csa", "patient_name": "Zauberberg^Walpurga", "character_set": "ISO_IR 192"},
)

# Kills itself after the second case of an upload.
KILLED = """
import os, signal
from vfmalign.imaging.datasets.importer import DatasetToImport
encode_cases = DatasetToImport.encode_cases
def encode_some(self):
    for number, volumes in enumerate(encode_cases(self)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield volumes
DatasetToImport.encode_cases = encode_some
from vfmalign.cli.__main__ import main
main()
"""

# Prints the digest of every file that it sends.
WATCHED = """
import sys
from vfmalign.client.uploader import Uploader
send = Uploader._send
def send_and_tell(self, upload, content):
    send(self, upload, content)
    sys.stderr.write(f"sent {upload.sha256}\\n")  # in one piece, as several threads send
Uploader._send = send_and_tell
from vfmalign.cli.__main__ import main
main()
"""

Run = Callable[..., tuple[dict[str, Any], str]]


def add_secrets(folder: Path) -> None:
    """Adds what identifies to every file: in attributes that people write, in sequences and in private ones."""
    for path in folder.rglob("*.dcm"):
        header = dcmread(path)
        header.DeviceSerialNumber, header.PatientComments = SECRETS["device"], SECRETS["comment"]
        header.private_block(0x0011, "ACME", create=True).add_new(0x01, "LO", SECRETS["private"])
        header.save_as(path)


def draw_contours(folder: Path, case: PhantomCase) -> None:
    """Replaces a segmentation by a structure set: a box around the gland, and a region with the patient's name."""
    shutil.rmtree(folder / "100")
    x, y, z = np.nonzero(case.volumes["gland"].array_XYZ)
    box = [(x.min(), y.min()), (x.max(), y.min()), (x.max(), y.max()), (x.min(), y.max())]
    contours = [to_contour(box, slice_index) for slice_index in np.unique(z)]
    t2w = [dcmread(path) for path in sorted((folder / "004").iterdir())]
    write_structure_set(folder / "101", t2w, {"gland": contours, folder.name: []}, case.volumes["t2w"].affine)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of examinations; names of folders and of the zip hold patients' names as well.

    The gland of the last one is drawn in a structure set, the others' in segmentations.
    """
    folder, path = tmp_path / "export", tmp_path / "Zauberberg.zip"
    for number, options in enumerate(EXAMINATIONS):
        case = generate_case(11, number, SPEC)
        name = str(options["patient_name"]).partition("^")[0]
        write_prostate(folder / name, case, patient_id=f"PID-4711-{number}", **options)  # type: ignore[arg-type]
    draw_contours(folder / name, case)
    add_secrets(folder)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in sorted(folder.rglob("*.dcm")):
            file.write(member, member.relative_to(folder))
        file.writestr("Zauberberg/report.pdf", b"%PDF Zauberberg")
    return path


def list_marks(archive: Path) -> set[str]:
    """Every value of the files that identifies."""
    marks = set(SECRETS.values())
    with zipfile.ZipFile(archive) as file:
        for member in file.namelist():
            if member.endswith(".dcm"):
                with file.open(member) as opened:
                    header = dcmread(opened, stop_before_pixels=True)
                marks |= {str(header.get(keyword)) for keyword in (
                    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "StudyDate", "AccessionNumber",
                    "InstitutionName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
                    "FrameOfReferenceUID",
                ) if header.get(keyword)}  # fmt: skip
                names = f"{header.PatientName}^{header.ReferringPhysicianName}".replace("=", "^").split("^")
                marks |= {name for name in names if name}
    return marks


@pytest.fixture
def declaration(tmp_path: Path) -> Path:
    """Prostate mpMRI whose gland is found by the label of its segment."""
    content = get_declaration("prostate_mpmri").model_dump(mode="json")
    rules = resources.files("vfmalign.imaging.dicom.rules").joinpath("prostate_mpmri.json").read_text()
    selections = [item for item in json.loads(rules)["selections"] if item["name"] != "gland"]
    gland = {
        "name": "gland",
        "conditions": {"Modality": {"in": ["SEG", "RTSTRUCT"]}},
        "segments": {"1": {"label": "gland"}},
    }
    path = tmp_path / "declaration.json"
    path.write_text(json.dumps({**content, "selections": [*selections, gland]}))
    return path


@pytest.fixture
def run(import_service: Any, python: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> Run:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VFMALIGN_"))}
    (tmp_path / "tmp").mkdir()
    environment = {
        **inherited,
        "VFMALIGN_FEATURES_ADDRESS": import_service.address,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CACHE_HOME": str(tmp_path / "home/cache"),
    }
    (tmp_path / "home").mkdir()

    def run_command(*arguments: str, token: str = ADA, code: int = 0, program: str = "") -> tuple[dict[str, Any], str]:
        command = [sys.executable, *(("-c", program) if program else ("-m", "vfmalign.cli")), *arguments, "--json"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = python(command, cwd=tmp_path / "home", env={**environment, "VFMALIGN_TOKEN": token}, **pipes)
        out, err = process.communicate()
        assert process.returncode == code, err.decode()
        return json.loads(out or b"{}"), (out + err).decode()

    return run_command


def read_metrics(service: Any) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.ports['metrics']}/metrics", timeout=30) as response:
        content: bytes = response.read()
    return content


def test_nothing_that_identifies_leaves_the_mapping(
    archive: Path, declaration: Path, run: Run, import_service: Any, store: ObjectStore, tmp_path: Path
) -> None:
    marks = list_marks(archive)
    assert {"张三", "太郎", "やまだ", "müller-lüdenscheidt"} <= {mark.lower() for mark in marks}
    assert find_marks(declaration.read_bytes(), marks) == set()
    command = ("dataset", "import", str(archive), "--declaration", str(declaration), "--id", "dicom")

    dry, text = run(*command, "--dry-run")
    assert dry["layout"] == "dicom"
    assert not dry["problems"]
    assert "left out: 1 file (not DICOM)" in dry["notes"]
    problems, failed = run(
        "dataset", "import", str(archive), "--declaration", "brain_t1w", "--id", "other", code=exits.BAD_INPUT
    )
    assert "nothing meets the selection of t1w" in problems["problems"][0]
    imported, printed = run(*command)
    _, extracted = run("extract", "dicom", "--model", "micro", token=VIEWER)

    dataset = load_dataset(store, "dicom")
    assert dataset.digest() == imported["digest"]
    cases = [case for split in ("train", "val", "test") for case in dataset.split(split)]
    # Two patients share a vendor; the others alone have theirs.
    assert Counter(case.strata["manufacturer"] for case in cases) == {"siemens": 2, "other": 2}
    assert all({"t2w", "dwi", "adc", "gland"} <= set(case.volumes) for case in cases)

    for printed_text in (text, failed, printed, extracted):
        assert find_marks(printed_text.replace(str(archive), "").encode(), marks) == set()
    keys = list(store.list(""))
    assert any(key.startswith("features/") for key in keys), "features were extracted"
    assert any(key.startswith("volumes/dicom/") for key in keys)
    assert {key: found for key in keys if (found := find_marks(key.encode() + store.get(key), marks))} == {}
    assert find_marks(import_service.log.read_bytes(), marks) == set()
    assert find_marks(read_metrics(import_service), marks) == set()
    assert find_marks_in_files(tmp_path / "tmp", marks) == {}

    ((name, found),) = find_marks_in_files(tmp_path / "home", marks).items()
    assert name == ".vfmalign/private/mapping.csv"
    assert {f"PID-4711-{number}" for number in range(4)} <= found, "the search finds what is there"
    assert len([mark for mark in found if mark.startswith("1.2.826")]) == 4, "StudyInstanceUIDs alone"


def test_an_import_that_is_killed_continues(
    archive: Path, declaration: Path, run: Run, store: ObjectStore, tmp_path: Path
) -> None:
    command = ("dataset", "import", str(archive), "--declaration", str(declaration), "--id", "killed")
    run(*command, program=KILLED, code=-signal.SIGKILL)
    uploaded = {key: store.get(key) for key in store.list("incoming/")}
    assert len(uploaded) == 8, "four volumes of each of two cases"
    assert not list(store.list("datasets/killed/"))
    assert not list((tmp_path / "tmp").iterdir()), "nothing is unpacked to disk"

    imported, printed = run(*command, program=WATCHED)
    dataset = load_dataset(store, "killed")
    assert dataset.digest() == imported["digest"]
    sent = set(re.findall("^sent ([0-9a-f]{64})$", printed, re.MULTILINE))
    volumes = {volume.sha256 for split in SPLITS for case in dataset.split(split) for volume in case.volumes.values()}
    before = {key.rpartition("/")[2] for key in uploaded}
    assert len(before & volumes) == 8
    assert sent & volumes == volumes - before, "what was uploaded before is not sent again"
    assert list(store.list("incoming/")) == []
    dry, _ = run(*command, "--dry-run")
    assert dry["digest"] == imported["digest"], "the same content has the same digest"
