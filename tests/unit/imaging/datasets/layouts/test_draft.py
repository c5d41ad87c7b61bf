"""Names for files that no declaration describes, and which of their words are never shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.imaging.datasets.brain_files import make_case, put, to_nifti

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.layouts.draft import UndescribedData, name_files
from vfmalign.imaging.datasets.layouts.folders import classify, read


def name(*files_of_cases: str) -> list[list[str]]:
    """Names of the files of each case, which are given as `folder: file file`."""
    by_case = {}
    for text in files_of_cases:
        folder, _, names = text.partition(": ")
        by_case[folder] = [Path(folder, f"{file}.nii.gz") for file in names.split()]
    return [sorted(kinds) for kinds in name_files(by_case).values()]


EXAMPLES = {
    "one word": (["a: t1 flair", "b: t1 flair"], ["flair", "t1"]),
    "a longer name": (["a: t1w t1w_gd", "b: t1w t1w_gd"], ["t1w", "t1w_gd"]),
    "a number between words": (["a: t1_17_gd ct", "b: t1_28_gd ct"], ["ct", "gd"]),
    "the name of the dataset in every file": (["a: brats_1_t1 brats_1_t2", "b: brats_2_t1 brats_2_t2"], ["t1", "t2"]),
    "one file": (["a: scan_1", "b: scan_2"], ["scan"]),
    "the folder's words": (["smith_7: smith_7_ct", "jones_8: jones_8_ct"], ["ct"]),
    "the letters of a folder's word": (["smith7: smith_ct", "smith8: smith_ct"], ["ct"]),
    "capital letters": (["a: T1-Gd", "b: T1-Gd"], ["t1_gd"]),
}


@pytest.mark.parametrize(("cases", "names"), EXAMPLES.values(), ids=EXAMPLES)
def test_files_are_named_by_what_tells_them_apart(cases: list[str], names: list[str]) -> None:
    assert name(*cases) == [names, names]


HIDDEN = {
    "a single patient": ["a: smith_ct"],
    "several sessions of a single patient": ["a/1: smith_ct", "a/2: smith_ct"],
    "fewer than half of the patients": ["a: smith", "b: smith", "c: x1", "d: x2", "e: x3"],
    "numbers": ["a: 20210304", "b: 20210304"],
}


@pytest.mark.parametrize("cases", HIDDEN.values(), ids=HIDDEN)
def test_words_that_may_be_a_patient_s_are_not_shown(cases: list[str]) -> None:
    assert not any(name(*cases))


def fill(root: Path, missing: str = "") -> Path:
    for number in range(4):
        case = make_case(number)
        files = {"t2": case.image, "flair": case.image, "seg": case.label, "ct": case.image}
        for kind, content in files.items():
            if kind != missing or number:
                put(root / f"p{number}" / f"{kind}.nii.gz", content)
    return root


def test_a_modality_that_no_case_has_gives_a_draft_of_what_every_case_has(tmp_path: Path) -> None:
    with pytest.raises(UndescribedData, match="the words of dwi or adc, which prostate_mpmri declares") as caught:
        read(fill(tmp_path, missing="ct"), None)
    assert caught.value.counts == {"flair": 4, "seg": 4, "t2": 4, "ct": 3}
    draft = caught.value.draft
    assert draft is not None
    assert draft.modalities == ("flair", "t2")
    assert draft.label_names == ("seg",)
    assert all(classify(f"p0_{kind}.nii.gz", draft) == kind for kind in ("flair", "t2", "seg"))


def test_a_volume_of_many_values_or_of_fractions_is_no_label_map(tmp_path: Path) -> None:
    fractions = to_nifti(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32))
    for number in range(2):
        put(tmp_path / f"p{number}" / "density.nii.gz", fractions)
    with pytest.raises(UndescribedData) as caught:
        read(tmp_path, None)
    assert caught.value.draft is not None
    assert (caught.value.draft.modalities, caught.value.draft.labels) == (("density",), ())


@pytest.mark.parametrize(("patients", "files"), [(12, 1), (9, 1), (12, 2)])
def test_a_value_that_few_files_hold_is_named_beside_the_draft(tmp_path: Path, patients: int, files: int) -> None:
    stray = np.zeros((16, 18, 14), np.uint8)
    stray[4:8, 4:8, 4:8], stray[8:12, 4:8, 4:8], stray[0, 0, 0] = 1, 2, 7
    for number in range(patients):
        put(tmp_path / f"p{number}" / "ct.nii.gz", make_case(number).image)
        put(tmp_path / f"p{number}" / "seg.nii.gz", to_nifti(stray) if number < files else make_case(number).label)
    with pytest.raises(UndescribedData) as caught:
        read(tmp_path, None)
    assert caught.value.draft is not None
    assert caught.value.draft.labels[0].values[7] == "value_7"
    few = (patients, files) == (12, 1)
    assert caught.value.notes == (("seg: value 7 occurs in 1 of 12 files: a mistake?",) if few else ())


def test_label_maps_alone_are_no_draft(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / f"p{number}" / "structures.nii.gz", make_case(0).label)
    with pytest.raises(BadDataset, match=r"files of structures \(2\)") as caught:
        read(tmp_path, None)
    assert isinstance(caught.value, UndescribedData)
    assert caught.value.draft is None
    assert "--declaration" in caught.value.remedy
