"""Cases that are left out of an import, because they lack what the user requires of every case."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.imaging.datasets.brain_files import BRAIN, LAY_OUT, lay_out_csv, lay_out_folders, list_rows, write_table
from tests.unit.imaging.datasets.problems import CASES, NAME, list_problems, run

from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.importer import prepare_import

LABELS = ("hippocampus",)
OPTIONS = {"declaration": BRAIN, "only_with": LABELS}


def lay_out_without_a_label(layout: str, root: Path) -> Path:
    """Four cases, of which the third has no label map."""
    path = LAY_OUT[layout](root, CASES)
    if layout == "csv":
        rows = list_rows(CASES)
        rows[2]["label:hippocampus"] = ""
        write_table(path / "cases.csv", rows)
    else:
        labels = sorted([*path.rglob("labelsTr/*.nii.gz"), *path.rglob("*hippocampus*.nii.gz")])
        labels[2].unlink()
        (path / "dataset.json").unlink(missing_ok=layout != "nnunet")  # whose lists would name the missing file
    return path


@pytest.mark.parametrize("layout", LAY_OUT)
def test_a_case_without_a_label_map_is_left_out_and_named_by_number_and_id(tmp_path: Path, layout: str) -> None:
    path = lay_out_without_a_label(layout, tmp_path / "d")
    prepared = run(path, **OPTIONS)
    assert prepared.problems == ()
    assert sum(len(prepared.dataset.split(split)) for split in ("train", "val", "test")) == 3
    (note,) = [note for note in prepared.notes if note.startswith("left out: 1 case without hippocampus (")]
    assert ("line 4, c-" if layout == "csv" else "case 3 of 4, c-") in note
    assert NAME not in note


def test_a_case_with_another_problem_is_not_left_out(tmp_path: Path) -> None:
    path = lay_out_folders(tmp_path / "d", CASES)
    (path / f"{NAME}1" / "hippocampus.nii.gz").unlink()
    (path / f"{NAME}1" / "t1w_again.nii.gz").write_bytes(b"")
    assert "case 2 of 4, c-" in list_problems(path, **OPTIONS)


def test_a_case_without_a_modality_is_left_out(tmp_path: Path) -> None:
    path = lay_out_folders(tmp_path / "d", CASES)
    (path / f"{NAME}1" / "t1w.nii.gz").unlink()
    assert "case 2 of 4, c-" in list_problems(path, declaration=BRAIN)
    assert list_problems(path, declaration=BRAIN, only_with=("t1w",)) == ""


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("mask",), "only_with: 'mask' is not declared; choose from t1w, hippocampus"),
        (LABELS, "only_with: no case has hippocampus; choose kinds that cases have"),
    ],
)
def test_names_that_leave_nothing_are_refused(tmp_path: Path, kinds: tuple[str, ...], message: str) -> None:
    path = lay_out_folders(tmp_path / "d", CASES)
    for label in path.rglob("hippocampus.nii.gz"):
        label.unlink()
    assert list_problems(path, declaration=BRAIN, only_with=kinds) == message


def test_tables_and_the_mapping_name_the_cases_that_are_left_out(tmp_path: Path) -> None:
    path = lay_out_without_a_label("csv", tmp_path / "d")
    splits = dict(zip(["c0", "c1", "c2", "c3"], ["train", "val", "test", "test"], strict=True))
    options = ImportOptions(splits=splits, **OPTIONS)  # type: ignore[arg-type]
    mapping = tmp_path / "mapping.csv"
    checked = prepare_import(path, "d", options, mapping_path=mapping, salt=bytes(32))
    assert len(checked.dataset.test) == 1
    assert ",c2," in mapping.read_text()


def test_names_are_shown_on_request_alone(tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    (path / "files" / "1.nii.gz").unlink()
    assert str(run(path, show_names=True).problems[0]).startswith("line 3 (c1), c-")
    assert str(run(path).problems[0]).startswith("line 3, c-")
