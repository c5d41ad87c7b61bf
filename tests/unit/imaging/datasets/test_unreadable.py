"""Files and folders that this account may not read are problems: nothing is left out silently."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    LAY_OUT,
    lay_out_bids,
    lay_out_csv,
    lay_out_decathlon,
    lay_out_folders,
    lay_out_plain,
    make_case,
    put,
)
from tests.unit.imaging.datasets.problems import CASES, NAME, list_problems, run

from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.datasets.layouts import sources
from vfmalign.imaging.datasets.layouts.derivation import read_declaration

pytestmark = pytest.mark.usefixtures("unprivileged")

DENIED = "cannot be read (Permission denied)"
SESSION = f"sub-{NAME}0/ses-1/anat/sub-{NAME}0_ses-1_T1w.nii.gz"


@pytest.mark.parametrize("folder", [f"{NAME}0", f"{NAME}0/2024"])
def test_a_folder_of_the_folders_is_a_problem_of_its_case(tmp_path: Path, folder: str) -> None:
    path = lay_out_folders(tmp_path / "d", CASES)
    (path / folder).mkdir(exist_ok=True)
    (path / folder).chmod(0)
    prepared = run(path, declaration=BRAIN)
    assert [problem.text for problem in prepared.problems] == [f"the folder {DENIED}"]
    list_problems(path, declaration=BRAIN)


@pytest.mark.parametrize(
    "folder",
    [
        f"sub-{NAME}0",
        f"sub-{NAME}0/anat",
        f"sub-{NAME}0/ses-1",
        f"sub-{NAME}0/ses-1/anat",
        f"derivatives/manual/sub-{NAME}0",
        f"derivatives/manual/sub-{NAME}0/anat",
    ],
)
def test_a_folder_of_a_subject_is_a_problem_of_its_cases(tmp_path: Path, folder: str) -> None:
    path = lay_out_bids(tmp_path / "d", CASES)
    if "ses-1" in folder:
        put(path / SESSION, make_case(9).image)
    (path / folder).chmod(0)
    prepared = run(path)
    assert [problem.text for problem in prepared.problems] == [f"a folder of the subject {DENIED}"]
    list_problems(path)


@pytest.mark.parametrize(
    ("layout", "folder"),
    [
        ("folders", "."),
        ("decathlon", "."),
        ("decathlon", "imagesTr"),
        ("nnunet", "imagesTr"),
        ("nnunet", "labelsTr"),
        ("bids", "derivatives"),
        ("bids", "derivatives/manual"),
        ("csv", "."),
        ("csv", "cases.csv"),
    ],
)
def test_a_folder_that_no_case_has_ends_the_import(tmp_path: Path, layout: str, folder: str) -> None:
    path = LAY_OUT[layout](tmp_path / "d", CASES)
    (path / folder).chmod(0)
    for chosen in (None, layout):
        assert f"the path, or something below it, {DENIED}; allow this account" in list_problems(path, layout=chosen)
    if folder == "." and layout == "csv":
        assert DENIED in list_problems(path / "cases.csv")


def test_no_subject_and_no_label_can_be_read(tmp_path: Path) -> None:
    path = lay_out_bids(tmp_path / "d", CASES)
    for subject in path.glob("sub-*"):
        subject.chmod(0)
    assert DENIED in list_problems(path)
    path = lay_out_plain(tmp_path / "plain", CASES)
    (path / "labels").chmod(0)
    assert DENIED in list_problems(path)


def test_the_remedy_of_a_volume_fits_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lay_out_decathlon(tmp_path / "d", CASES)
    image = path / "imagesTr" / f"{NAME}0.nii.gz"
    image.chmod(0)
    assert f": t1w: {DENIED}; replace the file, or allow this account to read it" in list_problems(path)
    image.chmod(0o644)
    monkeypatch.setattr(sources, "MAX_ENCODED_BYTES", 2**10)
    assert ": t1w: cannot be read (larger than 1024 bytes); crop the series" in list_problems(path)


def test_files_of_the_import_itself_say_why(tmp_path: Path) -> None:
    table = lay_out_csv(tmp_path / "table", CASES) / "cases.csv"
    table.chmod(0)
    assert DENIED in list_problems(table)
    path = lay_out_decathlon(tmp_path / "d", CASES)
    (path / "dataset.json").chmod(0)
    assert f"dataset.json: it {DENIED}; replace the file" in list_problems(path)
    declaration = put(tmp_path / "brain.json", "{}")
    declaration.chmod(0)
    with pytest.raises(BadOption, match=r"declaration: the file cannot be read \(Permission denied\); give a JSON"):
        read_declaration(str(declaration))
    with pytest.raises(BadOption, match=r"the file cannot be read \(not a regular file\)"):
        read_declaration(str(path))
