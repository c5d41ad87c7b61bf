"""Imports upload nothing that names a patient and nothing that cannot be used."""

import csv
import gzip
import logging
import stat

import nibabel as nib
import numpy as np
import pytest
from tests.dataset_imports import import_dataset
from tests.prostate import PROSTATE

from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, DataLoss, NotFound
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.identities import (
    MAPPING_COLUMNS,
    add_to_mapping,
    find_group,
    keyed_id,
    load_salt,
    remove_from_mapping,
)
from vfmalign.imaging.datasets.problems import UnusableCases
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack, generate_case
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import load_case

PATIENT = "SURNAME^GIVEN_1234567"
SALT = bytes(range(32))
SMALL = PhantomSpec(
    t2w=SliceStack((48, 48, 12), (2.0, 2.0, 4.0)),
    dwi=SliceStack((32, 32, 12), (3.0, 3.0, 4.0)),
    adc=SliceStack((32, 32, 12), (3.0, 3.0, 4.0)),
)
FILES = {"t2w": "t2", "dwi": "dwi", "adc": "adc", "gland": "mask", "lesions": "lesions"}


@pytest.fixture(scope="module")
def studies():
    return [generate_case(1, index, SMALL).volumes for index in range(4)]


def write_case(folder, volumes, text=PATIENT):
    """A case as an exporter writes it: float32 NIfTI with text all over the header."""
    folder.mkdir(parents=True)
    for kind, volume in volumes.items():
        image = nib.Nifti1Image(volume.array_XYZ, volume.affine)
        image.header["descrip"], image.header["aux_file"] = text.encode(), text.encode()
        image.header["db_name"], image.header["intent_name"] = text[:17].encode(), text[:15].encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, text.encode()))
        nib.save(image, folder / f"{FILES[kind]}.nii.gz")


@pytest.fixture
def folder(tmp_path, studies):
    """Four patients, named as in a hospital's export."""
    for number, study in enumerate(studies):
        write_case(tmp_path / "export" / f"{PATIENT}{number}", study)
    return tmp_path / "export"


def do_import(folder, store, dataset="ward", **options):
    outputs = {name: options.pop(name) for name in ("mapping_path", "salt", "progress") if name in options}
    outputs = {"mapping_path": folder.parent / "mapping.csv", "salt": SALT} | outputs
    return import_dataset(folder, store, dataset, ImportOptions(**options), **outputs)


def assert_unnamed(*texts):
    for text in texts:
        for part in ("SURNAME", "GIVEN", "1234567"):
            assert part not in text
            assert part.encode() not in text.encode()


def test_imports_checks_splits_and_uploads(folder, memory_store, studies):
    stages = []
    dataset = do_import(folder, memory_store, progress=lambda *args: stages.append(args))
    assert dataset.held_out
    assert not dataset.phantom, "whatever the folder holds"
    assert (len(dataset.train), len(dataset.val), len(dataset.test), len(dataset.pretrain)) == (2, 1, 1, 0)
    cases = [*dataset.train, *dataset.val, *dataset.test]
    assert len({case.group for case in cases}) == 4
    assert load_dataset(memory_store, "ward") == dataset
    assert stages == [(stage, i, 4) for stage in ("validate", "upload", "verify", "publish") for i in (1, 2, 3, 4)]
    loaded = [load_case(memory_store, case, ("t2w", "dwi", "adc", "gland", "lesions")) for case in cases]
    for study in studies:
        (same,) = [v for v in loaded if np.array_equal(v["t2w"].array_XYZ, study["t2w"].array_XYZ)]
        assert all(np.array_equal(same[kind].array_XYZ, study[kind].array_XYZ) for kind in study)


def test_no_key_or_object_names_a_patient(folder, memory_store, caplog):
    caplog.set_level(logging.DEBUG)
    do_import(folder, memory_store)
    for key, data in memory_store.objects.items():
        content = gzip.decompress(data) if key.endswith(".gz") else data
        assert_unnamed(key, content.decode("latin-1"), data.decode("latin-1"))
    assert_unnamed(caplog.text)


def test_the_mapping_stays_local_private_and_complete(folder, memory_store):
    dataset = do_import(folder, memory_store)
    path = folder.parent / "mapping.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {c.id for c in (*dataset.train, *dataset.val, *dataset.test)}
    assert {row["folder"] for row in rows} == {f"{PATIENT}{i}" for i in range(4)}
    do_import(folder, memory_store, "second")
    with path.open() as file:
        again = list(csv.DictReader(file))
    assert [row["dataset"] for row in again] == ["ward"] * 4 + ["second"] * 4
    assert [row["group"] for row in again[:4]] == [row["group"] for row in again[4:]]
    assert not {row["case"] for row in again[:4]} & {row["case"] for row in again[4:]}


def test_an_import_that_is_refused_leaves_the_mapping_of_the_published_dataset(folder, memory_store, studies):
    do_import(folder, memory_store)
    path = folder.parent / "mapping.csv"
    published = path.read_text().splitlines()
    do_import(folder, memory_store)
    assert path.read_text().splitlines() == published, "no row is repeated"
    write_case(folder.parent / "other" / PATIENT, studies[0])
    with pytest.raises(Conflict):
        import_dataset(folder.parent / "other", memory_store, "ward", mapping_path=path, salt=SALT)
    rows = path.read_text().splitlines()
    assert rows[:-1] == published
    assert f",{PATIENT}," in rows[-1]


def test_another_salt_gives_other_ids(folder, memory_store):
    first = do_import(folder, memory_store)
    other = do_import(folder, memory_store, "ward2", salt=bytes(32))
    groups = [{c.group for c in (*d.train, *d.val, *d.test)} for d in (first, other)]
    assert not groups[0] & groups[1]
    assert keyed_id(SALT, "ab", "c") != keyed_id(SALT, "a", "bc")


def test_repeating_an_import_is_idempotent_and_another_conflicts(folder, memory_store):
    first = do_import(folder, memory_store)
    stored = dict(memory_store.objects)
    assert do_import(folder, memory_store) == first
    with pytest.raises(Conflict, match=r"choose another dataset id, or see .*`vfmalign dataset show ward`"):
        do_import(folder, memory_store, seed=1)
    assert {key: data for key, data in memory_store.objects.items() if not key.startswith("incoming/")} == stored


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "adc: truncated .nii.gz"),
        (lambda path: path.unlink(), "no file looks like adc"),
        (lambda path: path.rename(path.with_name("notes.txt")), "no file looks like adc"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "adc: cannot be read (No such file or directory)"),
        (lambda path: path.with_name("adc_2.nii.gz").write_bytes(b"x"), "two files look like adc"),
        (
            lambda path: nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4)), np.eye(4)), path),
            "irreconcilable grids: adc covers",
        ),
    ],
    ids=["truncated", "missing", "renamed", "unreadable", "ambiguous", "elsewhere"],
)
def test_a_bad_case_is_named_by_its_id_and_nothing_is_uploaded(folder, memory_store, caplog, damage, says):
    caplog.set_level(logging.DEBUG)
    damage(folder / f"{PATIENT}2" / "adc.nii.gz")
    with pytest.raises(BadDataset) as caught:
        do_import(folder, memory_store)
    message = str(caught.value)
    assert says in message
    assert "\n  case 3 of 4, c-" in message
    assert_unnamed(message, caplog.text)
    with (folder.parent / "mapping.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["folder"] == f"{PATIENT}2"]
    assert row["case"] in message
    assert memory_store.objects == {}
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def test_every_bad_case_is_listed(folder, memory_store):
    for path in folder.rglob("*.nii.gz"):
        if path.name in {"adc.nii.gz", "dwi.nii.gz"} and path.parent.name != f"{PATIENT}0":
            path.unlink()
    with pytest.raises(UnusableCases) as caught:
        do_import(folder, memory_store)
    assert len(caught.value.problems) == 6
    assert caught.value.message.count("\n  case ") == 6


def test_an_empty_gland_mask_is_refused(tmp_path, memory_store, studies):
    study = dict(studies[0])
    blank = np.zeros_like(study["gland"].array_XYZ)
    study["gland"] = type(study["gland"])(blank, study["gland"].affine)
    write_case(tmp_path / "one", study)
    with pytest.raises(BadDataset, match="gland: the gland mask is empty"):
        do_import(tmp_path / "one", memory_store)


def test_a_single_patient_is_in_all_splits_and_not_held_out(tmp_path, memory_store, studies):
    write_case(tmp_path / PATIENT, studies[0])
    dataset = do_import(tmp_path / PATIENT, memory_store)
    assert not dataset.held_out
    assert dataset.train == dataset.val == dataset.test
    assert len(dataset.test) == 1
    assert dataset.pretrain == ()
    assert load_dataset(memory_store, "ward") == dataset


def test_cases_of_one_patient_stay_together(folder, memory_store):
    patients = {f"{PATIENT}{i}": "a" if i < 2 else str(i) for i in range(4)}
    dataset = do_import(folder, memory_store, patients=patients)
    groups = [{case.group for case in split} for split in (dataset.train, dataset.val, dataset.test)]
    assert sum(len(g) for g in groups) == 3
    assert sum(len(split) for split in (dataset.train, dataset.val, dataset.test)) == 4


def test_splits_can_be_given_by_the_user(folder, memory_store):
    names = [f"{PATIENT}{i}" for i in range(4)]
    splits = dict(zip(names, ("pretrain", "train", "val", "test"), strict=True))
    dataset = do_import(folder, memory_store, splits=splits)
    assert all(len(dataset.split(name)) == 1 for name in ("pretrain", "train", "val", "test"))
    with pytest.raises(BadDataset, match=r"table of patients names cases that do not exist \(entry 2\)") as caught:
        do_import(folder, memory_store, "b", patients={names[0]: "a", "SURNAME": "a"})
    assert_unnamed(str(caught.value))
    expected = r"name cases that do not exist \(entry 4\) and leave out cases \(case 4 of 4, c-\w+\); name every case"
    with pytest.raises(BadDataset, match=expected) as caught:
        do_import(folder, memory_store, "b", splits={**dict.fromkeys(names[:3], "train"), "SURNAME": "test"})
    assert_unnamed(str(caught.value))
    with pytest.raises(BadDataset, match="the cases of one patient are in different splits") as caught:
        do_import(folder, memory_store, "b", splits=splits, patients=dict.fromkeys(names, "a"))
    assert_unnamed(str(caught.value))


def test_long_lists_of_unknown_cases_are_shortened(folder, memory_store):
    splits = {f"SURNAME{number}": "train" for number in range(12)}
    with pytest.raises(BadDataset, match=r"\(entry 1; .*; entry 10; and 2 more\)"):
        do_import(folder, memory_store, splits=splits)


def test_two_patients_with_one_volume_are_refused_before_the_upload(folder, memory_store):
    for path in (folder / f"{PATIENT}0").iterdir():
        for number in (1, 2, 3):
            (folder / f"{PATIENT}{number}" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        BadDataset, match=r"share volume \w{12}… \(case . of 4, c-\w+ and case . of 4, c-\w+\); put both cases into"
    ):
        do_import(folder, memory_store)
    assert memory_store.objects == {}


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")


def test_a_spreadsheet_reads_no_formula_in_the_mapping(tmp_path):
    path = tmp_path / "mapping.csv"
    rows = [("ward", f"c-{number}", "p-1", text, text) for number, text in enumerate(FORMULAS)]
    add_to_mapping(path, rows)
    add_to_mapping(path, [*rows, ("ward", "c-9", "p-2", "a=1", "O'Hara")])
    with path.open(newline="") as file:
        written = list(csv.reader(file))
    assert written == [
        list(MAPPING_COLUMNS),
        *(["ward", f"c-{number}", "p-1", f"'{text}", f"'{text}"] for number, text in enumerate(FORMULAS)),
        ["ward", "c-9", "p-2", "a=1", "O'Hara"],
    ]


def test_a_foreign_mapping_file_is_not_overwritten(folder, memory_store):
    path = folder.parent / "mapping.csv"
    path.write_text("something else\n1\n")
    with pytest.raises(BadOption, match="is not a mapping file") as caught:
        do_import(folder, memory_store)
    assert path.read_text() == "something else\n1\n"
    assert str(folder.parent) not in str(caught.value)


def test_the_salt_is_created_once_with_mode_0600(tmp_path):
    path = tmp_path / "config" / "salt"
    salt = load_salt(path)
    assert len(salt) == 32
    assert load_salt(path) == salt
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(BadOption, match="damaged"):
        load_salt(path)


def test_loading_verifies_digests(folder, memory_store):
    case = do_import(folder, memory_store).test[0]
    memory_store.objects[case.volumes["adc"].key] += b"\0"
    with pytest.raises(DataLoss, match=r"adc\.nii\.gz: wrong digest; import the dataset again"):
        load_case(memory_store, case, ("t2w", "adc"))
    del memory_store.objects[case.volumes["t2w"].key]
    with pytest.raises(DataLoss, match=r"t2w\.nii\.gz: .*; import the dataset again"):
        load_case(memory_store, case, ("t2w",))
    assert do_import(folder, memory_store).test[0] == case
    load_case(memory_store, case, ("t2w", "adc"))
    bare = case.model_copy(update={"volumes": {"t2w": case.volumes["t2w"]}})
    with pytest.raises(NotFound, match="no gland volume"):
        load_case(memory_store, bare, ("gland",))


def test_the_real_case(memory_store, picai, picai_folder, tmp_path):
    dataset = import_dataset(picai_folder, memory_store, "picai", mapping_path=tmp_path / "m.csv", salt=SALT)
    assert not dataset.held_out
    volumes = load_case(memory_store, dataset.test[0], tuple(picai))
    for kind, volume in picai.items():
        np.testing.assert_array_equal(volumes[kind].array_XYZ, volume.array_XYZ)
    prepared = prepare_study(
        volumes,
        Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64)),
        labels=PROSTATE.labels,
    )
    assert set(prepared.labels["lesions"].unique().tolist()) == {0, 3}


def test_an_erasure_finds_and_removes_the_rows_of_a_patient(tmp_path):
    path = tmp_path / "mapping.csv"
    rows = [("ward", "c-1", "p-1", "a", "A"), ("ward", "c-2", "p-1", "b", "=A"), ("other", "c-3", "p-2", "c", "C")]
    assert not remove_from_mapping(path, "p-1".__eq__)
    add_to_mapping(path, rows)
    assert [find_group(path, case="c-2"), find_group(path, row=3)] == ["p-1", "p-2"]
    for wanted in ({"case": "c-9"}, {"row": 4}, {"row": -1}):
        with pytest.raises(BadOption, match="is not in the mapping file"):
            find_group(path, **wanted)
    assert remove_from_mapping(path, "p-1".__eq__)
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [list(MAPPING_COLUMNS), [""] * 5, [""] * 5, list(rows[2])]
    assert find_group(path, row=3) == "p-2", "a repeated command does not name the next patient"
    with pytest.raises(BadOption, match="is not in the mapping file"):
        find_group(path, row=1)
    add_to_mapping(path, rows[2:])
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("no,mapping\n1,2\n")
    with pytest.raises(BadOption, match="cannot be read"):
        find_group(path, case="c-1")
    with pytest.raises(BadOption, match="cannot be removed"):
        remove_from_mapping(path, "p-1".__eq__)
