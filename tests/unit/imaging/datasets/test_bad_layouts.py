"""Data that cannot be imported: every problem is listed by generated id or line, and no name is repeated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    DATASET_JSON,
    LAY_OUT,
    Files,
    lay_out_bids,
    lay_out_csv,
    lay_out_decathlon,
    lay_out_nnunet,
    lay_out_plain,
    make_case,
    put,
    to_nifti,
)
from tests.unit.imaging.datasets.problems import CASES, NAME, TWO_CHANNELS, list_problems, run

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.layouts.registry import read_source

HALVES = to_nifti(np.full((16, 18, 14), 0.5, np.float32))


def two_channels(case: Files) -> bytes:
    number = np.random.default_rng(0)
    return to_nifti(np.stack([number.random((16, 18, 14)), number.random((16, 18, 14))], axis=-1).astype(np.float32))


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((path / "dataset.json").read_text())
    change(content)
    put(path / "dataset.json", content)


def with_item(path: Path, **fields: Any) -> None:
    edit_json(path, lambda content: content["training"][0].update(fields))


OUTSIDE = "the path leaves the folder"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "imagesTr" / f"{NAME}1.nii.gz").unlink(), "item 2 of training, c-.*: its image does not exist"),
        (lambda d: (d / "labelsTr" / f"{NAME}1.nii.gz").unlink(), "item 2 of training, c-.*: its label does not exist"),
        (lambda d: with_item(d, image=[f"imagesTr/{NAME}0.nii.gz", "x.nii.gz"]), "its image 2 does not exist"),
        (lambda d: with_item(d, image="../secret.nii.gz"), f"item 1 of training, c-.*: {OUTSIDE}"),
        (lambda d: with_item(d, image="/etc/passwd"), OUTSIDE),
        (lambda d: with_item(d, label="imagesTr/../../x.nii.gz"), OUTSIDE),
        (lambda d: with_item(d, image="C:\\x.nii.gz"), OUTSIDE),
        (lambda d: with_item(d, image=7), "not a path"),
        (lambda d: with_item(d, image=[]), "not a path"),
        (lambda d: with_item(d, image=[f"imagesTr/{NAME}0.nii.gz"] * 2), "it has 2 images, but 1 modalities"),
        (lambda d: edit_json(d, lambda c: c["training"].append(c["training"][0])), "same file name"),
        (lambda d: edit_json(d, lambda c: c["training"].append(None)), "item 5 of training, c-.*: it is not an obj"),
        (lambda d: edit_json(d, lambda c: c["training"][3].pop("label")), "there is no hippocampus, which other"),
        (lambda d: edit_json(d, lambda c: c.update(modality={"0": "T1w", "1": "FLAIR"})), "expected 4 axes with 2"),
        (lambda d: edit_json(d, lambda c: c.update(modality={"0": "T1w", "1": "t1W"})), "declared twice"),
        (lambda d: edit_json(d, lambda c: c.update(modality={"1": "T1w"})), "not numbered 0, 1"),
        (lambda d: edit_json(d, lambda c: c.update(modality={str(i): f"m{i}" for i in range(17)})), "at most 16"),
        (lambda d: edit_json(d, lambda c: c.update(labels={"whole": [1, 2]})), "not a whole number from 0 to 255"),
        (lambda d: edit_json(d, lambda c: c.update(labels={"0": "background", "1": "a"})), "values 2 are not declared"),
        (lambda d: edit_json(d, lambda c: c.update(test="x")), "test is not a list"),
        (lambda d: put(d / "dataset.json", "{"), "not a JSON object"),
        (lambda d: put(d / "dataset.json", "[" * 100_000), "not a JSON object"),
        (lambda d: put(d / "imagesTr" / f"{NAME}0.nii.gz", two_channels(CASES[0])), "expected 3 axes, got 4"),
        (lambda d: put(d / "imagesTr" / f"{NAME}0.nii.gz", b"no NIfTI"), "not a NIfTI file"),
    ],
)
def test_bad_decathlon(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = lay_out_decathlon(tmp_path / "d", CASES)
    damage(path)
    text = list_problems(path, layout="decathlon")
    assert re.search(message, text), text


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    path = lay_out_decathlon(tmp_path / "d", CASES)
    secret = put(tmp_path / "secret.nii.gz", CASES[0].image)
    image = path / "imagesTr" / f"{NAME}0.nii.gz"
    image.rename(path / "stored.nii.gz")
    image.symlink_to(path / "stored.nii.gz")
    assert list_problems(path) == ""
    image.unlink()
    image.symlink_to(secret)
    assert OUTSIDE in list_problems(path)
    image.unlink()
    image.symlink_to(image)
    assert list_problems(path)
    for lay_out, file in (
        (lay_out_plain, f"labels/{NAME}0.nii.gz"),
        (lay_out_nnunet, f"imagesTr/{NAME}0_0000.nii.gz"),
        (lay_out_bids, f"sub-{NAME}0/anat/sub-{NAME}0_T1w.nii.gz"),
        (lay_out_csv, "files/0.nii.gz"),
    ):
        other = lay_out(tmp_path / lay_out.__name__, CASES)
        (other / file).unlink()
        (other / file).symlink_to(secret)
        assert OUTSIDE in list_problems(other), lay_out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "images" / f"{NAME}1.nii.gz").unlink(), "the label has no image of the same name"),
        (lambda d: (d / "labels" / f"{NAME}1.nii.gz").unlink(), "there is no label, which other cases have"),
        (lambda d: put(d / "images" / f"{NAME}1.nii", b""), "two files are the image"),
        (lambda d: put(d / "labels" / f"{NAME}1.nii", b""), "two files are the label"),
        (lambda d: put(d / "labels" / f"{NAME}1.nii.gz", CASES[0].image), "label has .* different values, like an im"),
        (lambda d: put(d / "labels" / f"{NAME}1.nii.gz", HALVES), "label labels are not whole numbers"),
        (lambda d: put(d / "labels" / f"{NAME}1.nii.gz", to_nifti(np.zeros((4, 4, 4), np.uint8))), "empty|irrecon"),
        (
            lambda d: put(d / "labels" / f"{NAME}1.nii.gz", to_nifti(np.ones((16, 18, 14), np.uint8), moved_mm=99)),
            "irreconcilable grids: label covers 0% of image's field of view",
        ),
    ],
)
def test_bad_pairs_of_folders(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = lay_out_plain(tmp_path / "d", CASES)
    damage(path)
    text = list_problems(path)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "imagesTr" / f"{NAME}1_0000.nii.gz").unlink(), "no file of channel 0000 (t1w)"),
        (lambda d: (d / "labelsTr" / f"{NAME}1.nii.gz").unlink(), "there is no hippocampus"),
        (lambda d: put(d / "imagesTr" / f"{NAME}1_0000.nii", b""), "two files are channel 0000 (t1w)"),
        (lambda d: put(d / "imagesTr" / f"{NAME}1_0003.nii.gz", b""), "channel 0003 is not declared"),
        (lambda d: put(d / "imagesTr" / f"{NAME}1.nii.gz", b""), "no channel number such as _0000"),
        (lambda d: edit_json(d, lambda c: c["channel_names"].update({"1": "T2w"})), "no file of channel 0001 (t2w)"),
        (lambda d: edit_json(d, lambda c: c.update(labels={"background": 0, "a": 1})), "values 2 are not declared"),
        (lambda d: edit_json(d, lambda c: c.update(file_ending=".png")), "`file_ending` is not .nii or .nii.gz"),
        (lambda d: (d / "dataset.json").unlink(), "there is no dataset.json"),
    ],
)
def test_bad_nnunet(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = lay_out_nnunet(tmp_path / "d", CASES)
    damage(path)
    assert message in list_problems(path, layout="nnunet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: anat(d, 1, "T1w").unlink(), "(t1w: 3 of 4 cases have it, but not case 2 of 4); add the"),
        (
            lambda d: [anat(d, n, "T1w").rename(anat(d, n, "Surname")) for n in range(4)],
            "no image has a suffix of BIDS; the file names share no word",
        ),
        (lambda d: [anat(d, n, "T1w").unlink() for n in range(4)], "no folder sub-*/anat or sub-*/ses-*/anat with im"),
        (lambda d: put(anat(d, 1, "run-2_T1w"), CASES[1].image), "2 files are t1w"),
        (
            lambda d: put(d / "derivatives/other" / mask(1, "desc-hippocampus_mask"), CASES[1].label),
            "2 files are",
        ),
        (lambda d: put(d / "derivatives/manual" / mask(1), HALVES), "labels are not whole numbers"),
    ],
)
def test_bad_bids(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = lay_out_bids(tmp_path / "d", CASES)
    damage(path)
    assert message in list_problems(path)


def test_a_file_or_folder_without_subjects_is_no_bids(tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    for chosen in (path, path / "cases.csv"):
        assert "there is no folder sub-*/anat" in list_problems(chosen, layout="bids")


def anat(root: Path, number: int, suffix: str) -> Path:
    return root / f"sub-{NAME}{number}" / "anat" / f"sub-{NAME}{number}_{suffix}.nii.gz"


def mask(number: int, ending: str = "space-T1w_label-hippocampus_dseg") -> str:
    return f"sub-{NAME}{number}/anat/sub-{NAME}{number}_{ending}.nii.gz"


def test_bids_sessions_are_cases_of_one_patient_and_partial_modalities_are_left_out(tmp_path: Path) -> None:
    path = lay_out_bids(tmp_path / "d", CASES)
    for session in ("ses-1", "ses-2"):
        stem = f"sub-{NAME}9_{session}"
        put(path / f"sub-{NAME}9" / session / "anat" / f"{stem}_T1w.nii.gz", make_case(9).image)
        put(path / f"sub-{NAME}9" / session / "anat" / f"{stem}_FLAIR.nii.gz", make_case(9).image)
    _, source = read_source(path)
    assert [case.patient for case in source.cases][-2:] == [f"{NAME}9"] * 2
    assert source.declaration.modalities == ("t1w",)
    assert source.notes == (
        "flair was left out: 2 of 6 cases have it, but not case 1 of 6; case 2 of 6; case 3 of 6; case 4 of 6",
    )
    assert "hippocampus" not in source.cases[-1].files, "a case may lack a label map"
    assert list_problems(path, declaration=TWO_CHANNELS).count("no file of flair") == 4


def test_a_word_of_a_file_name_that_may_be_a_patient_s_becomes_no_id(tmp_path: Path) -> None:
    path = lay_out_bids(tmp_path / "d", CASES)
    for number in range(4):
        put(anat(path, number, "Surname"), CASES[0].image)
    put(path / "derivatives/other" / mask(1, "desc-surname_mask"), CASES[1].label)
    _, source = read_source(path)
    assert source.declaration.modalities == ("t1w",)
    assert source.declaration.label_names == ("hippocampus",)
    assert [note.split(";")[0] for note in source.notes] == [
        "left out: 4 images with a suffix that is not in BIDS",
        "left out: 1 label map that only one patient has",
    ]
    assert list_problems(path) == ""


def test_a_case_folder_called_images_is_no_decathlon(tmp_path: Path) -> None:
    for name in ("t2", "dwi", "adc"):
        put(tmp_path / "images" / f"{name}.nii.gz", b"")
    assert read_source(tmp_path)[0] == "folders"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = lay_out_plain(tmp_path / "d", CASES)
    for folder in ("images", "labels"):
        (path / folder / f"{NAME}0.nii.gz").unlink()
        os.mkfifo(path / folder / f"{NAME}0.nii.gz")
    assert "cannot be read (not a regular file)" in list_problems(path)


def test_a_label_map_may_have_a_grid_of_its_own(tmp_path: Path) -> None:
    coarse = np.zeros((8, 9, 7), np.uint8)
    coarse[2:4, 3:6, 2:4] = 1
    image = nib.Nifti1Image(coarse, np.diag([2.0, 2.0, 2.0, 1.0]))
    path = lay_out_plain(tmp_path / "d", CASES)
    put(path / "labels" / f"{NAME}0.nii", image.to_bytes())
    (path / "labels" / f"{NAME}0.nii.gz").unlink()
    assert list_problems(path) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("modality", "channel_names", "labels", "name", "training", "validation", "test", "file_ending")


@given(content=st.dictionaries(st.sampled_from(FIELDS), JSON), layout=st.sampled_from(["decathlon", "nnunet", None]))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_dataset_json_is_read_or_refused(tmp_path: Path, content: dict[str, Any], layout: str | None) -> None:
    path = lay_out_nnunet(tmp_path / "d", CASES[:1])
    put(path / "dataset.json", content)
    list_problems(path, layout=layout)


@pytest.mark.parametrize("layout", LAY_OUT)
def test_one_patient_in_two_splits_is_refused_in_every_layout(tmp_path: Path, layout: str) -> None:
    path = LAY_OUT[layout](tmp_path / "d", CASES)
    declaration = BRAIN if layout == "folders" else None
    _, source = read_source(path, None, declaration)
    patients = {case.name: "p" if number < 2 else str(number) for number, case in enumerate(source.cases)}
    splits = {case.name: "train" if number else "test" for number, case in enumerate(source.cases)}
    text = list_problems(path, declaration=declaration, patients=patients, splits=splits)
    assert text.count("c-") == 2
    assert "the cases of one patient are in different splits" in text


def test_the_lists_of_a_datalist_are_its_splits(tmp_path: Path) -> None:
    path = lay_out_decathlon(tmp_path / "d", CASES)
    edit_json(path, lambda c: c.update(validation=[c["training"].pop()], test=[c["training"].pop(), "x.nii.gz"]))
    dataset = run(path).dataset
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [2, 1, 1]
    assert read_source(path)[1].notes == ("left out: 1 image of dataset.json without a label map",)
    repeated = lambda c: c["test"].append(c["training"][0])  # noqa: E731
    edit_json(path, repeated)
    assert "same file name" in list_problems(path)


def test_a_file_of_several_channels_is_split(tmp_path: Path) -> None:
    cases = [Files(case.name, two_channels(case), case.label) for case in CASES]
    path = lay_out_decathlon(tmp_path / "d", cases)
    edit_json(path, lambda c: c.update(modality={"1": "FLAIR", "0": "T1w"}, name="3"))
    prepared = run(path)
    assert prepared.dataset.declaration.modalities == ("t1w", "flair")
    assert prepared.dataset.declaration.label_names == ("label",), "the name of dataset.json is no id"
    assert all(set(case.volumes) == {"t1w", "flair", "label"} for case in prepared.dataset.train)
    case = prepared.dataset.train[0]
    assert case.volumes["t1w"].sha256 != case.volumes["flair"].sha256


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="does not exist"):
        read_source(tmp_path / NAME)
    with pytest.raises(BadDataset, match=r"no \.nii or \.nii\.gz file found"):
        read_source(tmp_path)
    for layout in LAY_OUT:
        with pytest.raises(BadDataset):
            read_source(tmp_path, layout)


@pytest.mark.parametrize("content", ["", "[]", json.dumps(DATASET_JSON), "{" * 5000])
def test_nothing_but_a_json_file(tmp_path: Path, content: str) -> None:
    put(tmp_path / "dataset.json", content)
    with pytest.raises(BadDataset):
        read_source(tmp_path)


def test_detection_reads_no_volume(tmp_path: Path, made_cases: Sequence[Files]) -> None:
    blank = [Files(case.name, b"", b"") for case in made_cases]
    for layout in ("decathlon", "nnunet"):
        name, source = read_source(LAY_OUT[layout](tmp_path / layout, blank))
        assert (name, len(source.cases)) == (layout, 4)
