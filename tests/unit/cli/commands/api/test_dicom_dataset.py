"""`vfmalign dataset import` of DICOM files: what a dry run says, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from tests.dicom_files import Examination, make_array, make_series, save

from vfmalign.cli import exits

BRAIN = {"SeriesDescription": "t1_mprage_sag", "MRAcquisitionType": "3D", "ScanningSequence": "GR", "EchoTime": "2.9",
         "RepetitionTime": "2300", "InversionTime": "900", "FlipAngle": "9", "SliceThickness": "1"}  # fmt: skip


def write_brain(folder: Path, number: int = 0, **attributes: object) -> Examination:
    examination = Examination(patient_id=f"PID-{number}", patient_name="Müller^Änne")
    array = np.repeat(make_array((40, 34, 4), seed=number), 16, axis=2)
    datasets: list[Dataset] = make_series(array, examination=examination, number=2, attributes=BRAIN | attributes)
    save(datasets, folder / examination.patient_name / f"{number}")
    return examination


def list_files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_dry_run_shows_the_dataset_and_leaves_nothing(invoke, tmp_path: Path) -> None:
    for number in range(3):
        write_brain(tmp_path / "d", number)
    (tmp_path / "d/notes.txt").write_text("Müller")
    before = list_files(tmp_path)
    code, out, err = invoke("dataset", "import", "d", "--declaration", "brain_t1w", "--dry-run", "--json")
    assert code == exits.OK, err
    assert list_files(tmp_path) == before
    document = json.loads(out)
    assert (document["layout"], document["problems"]) == ("dicom", [])
    assert document["strata"]["scanner"] == {"Skyra": 3}
    assert document["strata"]["t1w_repetition_time"] == {"2 s": 3}
    assert "left out: 1 file (not DICOM)" in document["notes"]


def test_refused_series_say_which_option_allows_them(invoke, tmp_path: Path) -> None:
    examination = write_brain(tmp_path / "d", BurnedInAnnotation="YES")
    command = ("dataset", "import", "d", "--layout", "dicom", "--declaration", "brain_t1w", "--dry-run")
    code, out, err = invoke(*command)
    assert code == exits.BAD_INPUT
    text = " ".join((out + err).split())
    assert "if they name nobody, allow them with --allow burned_in_annotation" in text
    assert not [mark for mark in examination.marks if mark in text]
    code, out, err = invoke(*command, "--allow", "burned_in_annotation", "--json")
    assert code == exits.OK, err
    assert json.loads(out)["strata"]["allowed"] == {"burned_in_annotation": 1}


@pytest.mark.parametrize("names", ["nonsense", "burned_in_annotation"])
def test_other_layouts_have_nothing_to_allow(invoke, tmp_path: Path, names: str) -> None:
    (tmp_path / "d/case").mkdir(parents=True)
    command = ("dataset", "import", "d", "--dry-run", "--allow", names)
    code, _, err = invoke(*command)
    assert code == exits.BAD_INPUT
    assert "--allow: the layout folders has no series to allow" in " ".join(err.split())
    code, _, err = invoke(*command, "--layout", "dicom")
    assert code == exits.BAD_INPUT
    assert ("'nonsense' is not a refusal" in err) == (names == "nonsense")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_what_is_no_zip_is_bad_input(invoke, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Müller.zip").write_bytes(content)
    code, _, err = invoke("dataset", "import", "Müller.zip", "--dry-run")
    assert code == exits.BAD_INPUT
    assert "the file is not a zip, or is truncated" in err
    assert "Müller" not in err


@pytest.mark.parametrize("text", ["t1w=10", "1:t1w", "0x1:t1w=3", "1:t1w=3 1:t1w=4"])
def test_a_choice_in_another_form_is_refused(invoke, tmp_path: Path, text: str) -> None:
    write_brain(tmp_path / "d")
    options = [part for choice in text.split() for part in ("--choose", choice)]
    code, _, err = invoke("dataset", "import", "d", "--declaration", "brain_t1w", "--dry-run", *options)
    assert code == exits.BAD_INPUT
    assert "use N:NAME=SERIES, such as --choose 3:t2w=10" in " ".join(err.split())


def test_unusable_studies_are_left_out_by_the_command(invoke, tmp_path: Path) -> None:
    for number in range(4):
        write_brain(tmp_path / "d", number, BurnedInAnnotation="YES" if number == 1 else "NO")
    command = ("dataset", "import", "d", "--declaration", "brain_t1w", "--dry-run", "--json")
    assert invoke(*command)[0] == exits.BAD_INPUT
    code, out, err = invoke(*command, "--skip-unusable")
    assert code == exits.OK, err
    assert sum(split["cases"] for split in json.loads(out)["splits"].values()) == 3
    assert [note for note in json.loads(out)["notes"] if "its pixels contain annotation" in note]
