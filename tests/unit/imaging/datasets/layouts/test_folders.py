"""Discovery of cases: which folder is a case, and what each file shows."""

import json

import pytest

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.assignments import read_patients, read_splits
from vfmalign.imaging.datasets.layouts.folders import classify, read


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("t2.nii.gz", "t2w"),
        ("10000_1000000_t2w.nii.gz", "t2w"),
        ("T2_tse_tra.nii", "t2w"),
        ("ADC.nii.gz", "adc"),
        ("10000_1000000_adc.nii.gz", "adc"),
        ("dwi_b1400.nii.gz", "dwi"),
        ("10000_1000000_hbv.nii.gz", "dwi"),
        ("mask.nii.gz", "gland"),
        ("prostate.nii.gz", "gland"),
        ("prostate_t2.nii.gz", "t2w"),
        ("t2_mask.nii.gz", "gland"),
        ("lesions.nii.gz", "lesions"),
        ("lesion_mask.nii.gz", "lesions"),
        ("localizer.nii.gz", None),
        ("catalogue.nii.gz", None),
    ],
)
def test_files_are_classified_by_the_words_of_their_names(name, kind):
    assert classify(name) == kind


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("t2.nii.gz", "dwi.nii.gz", "adc.nii.gz"):
        (folder / name).write_bytes(b"")


def test_one_folder_per_case_at_any_depth(tmp_path):
    fill(tmp_path / "a" / "2023")
    fill(tmp_path / "a" / "2024")
    fill(
        tmp_path / "b", "t2.nii", "hbv.nii", "adc.nii", "mask.nii", "lesions.nii", "scout.nii", "notes.txt", "._t2.nii"
    )
    (tmp_path / "empty").mkdir()
    found = read(tmp_path, None).cases
    assert [(c.name, c.patient) for c in found] == [("a/2023", "a"), ("a/2024", "a"), ("b", "b")]
    assert sorted(found[2].files) == ["adc", "dwi", "gland", "lesions", "t2w"]
    assert all(not case.problems for case in found)


def test_a_folder_that_is_one_case(tmp_path):
    fill(tmp_path / "case")
    assert [c.name for c in read(tmp_path / "case", None).cases] == ["case"]


def test_patients_from_a_table(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("folder,patient\nx1,p\nx2,p\n")
    assert read_patients(table) == {"x1": "p", "x2": "p"}
    table.write_text("case,patient\nx1,p\n")
    assert read_patients(table) == {"x1": "p"}


def test_incomplete_and_ambiguous_cases_carry_their_problems(tmp_path):
    fill(tmp_path / "a", "t2.nii", "t2_again.nii")
    (case,) = read(tmp_path, None).cases
    assert case.problems == ("two files look like t2w", "no file looks like dwi", "no file looks like adc")


def test_a_stray_file_beside_or_within_folders_of_cases_is_named(tmp_path):
    fill(tmp_path / "site" / "a")
    fill(tmp_path / "site", "scout.nii")
    fill(tmp_path / "site" / "a" / "old", "scout.nii")
    site, case, old = read(tmp_path, None).cases
    assert case.problems == ()
    assert len(site.problems) == len(old.problems) == 3
    assert all("beside folders of cases: move them away" in problem for problem in site.problems)
    assert all("its folder lies in the folder of another case" in problem for problem in old.problems)


def test_folders_that_cannot_be_scanned(tmp_path):
    (tmp_path / "SURNAME^GIVEN").touch()
    with pytest.raises(BadDataset, match="it is neither a folder nor a CSV file"):
        read(tmp_path / "SURNAME^GIVEN", None)
    with pytest.raises(BadDataset, match=r"no \.nii or \.nii\.gz file found"):
        read(tmp_path, None)
    fill(tmp_path, "t2.nii")
    fill(tmp_path / "a")
    with pytest.raises(BadDataset, match="1 NIfTI file in the folder itself, and others in folders below it"):
        read(tmp_path, None)


def test_splits_from_csv_and_json(tmp_path):
    (tmp_path / "s.csv").write_text("folder,split\na,train\nb/,test\n")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], "test": ["b"]}))
    assert read_splits(tmp_path / "s.csv") == read_splits(tmp_path / "s.json") == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("s.csv", "folder,split\nSURNAME,holdout\n", "unknown split; choose one of: pretrain, train, val, test"),
        ("s.csv", "folder,split\nSURNAME,train\nSURNAME,test\n", "line 3"),
        ("s.csv", "name,split\nSURNAME,train\n", "line 2"),
        ("s.json", '{"train": ["SURNAME"], "test": ["SURNAME"]}', "names one folder twice"),
        ("s.json", '["SURNAME"]', "not JSON of the form"),
        ("s.json", "{SURNAME", "not JSON of the form"),
        ("s.csv", b"folder,split\n\xff,train\n", "not CSV in UTF-8; export it with the columns folder,split"),
        ("s.csv", None, "cannot be read (No such file or directory); check the path"),
        ("s.json", None, "cannot be read (No such file or directory); check the path"),
    ],
)
def test_bad_tables_are_refused_without_quoting_them(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadDataset, match="splits") as caught:
        read_splits(tmp_path / name)
    assert says in str(caught.value)
    assert "SURNAME" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
