"""Problems of DICOM files: how they are named, and which of them an option allows."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from tests.dicom_files import Examination, make_affine, make_array, make_segmentation, make_series, save, write_series
from tests.unit.imaging.datasets.layouts.dicom_studies import (
    DECLARATION,
    SELECTIONS,
    SHAPE,
    make_options,
    run,
    write_study,
)

from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.storage.datasets import from_datalist, to_datalist
from vfmalign.imaging.datasets.discovery import ImportOptions, discover
from vfmalign.imaging.datasets.identities import add_to_mapping
from vfmalign.imaging.datasets.importer import prepare_import
from vfmalign.imaging.datasets.layouts.registry import read_source
from vfmalign.imaging.datasets.layouts.sources import DicomOptions
from vfmalign.imaging.dicom.rules import Preference


def test_a_defective_series_is_replaced_only_where_it_is_accepted(tmp_path: Path) -> None:
    examination = write_study(tmp_path / "d")
    better = {"examination": examination, "number": 8, "description": "t2", "attributes": {"EchoTime": "140"}}
    paths = write_series(tmp_path / "d/0/again", make_array(SHAPE), **better)
    selection = SELECTIONS[0].model_copy(update={"prefer": (Preference(largest="EchoTime"),)})
    options = make_options(shares=None)
    options = replace(options, dicom=replace(options.dicom, selections=(selection, SELECTIONS[1])))
    data = paths[2].read_bytes()
    pixels = data.index(b"\xe0\x7f\x10\x00")
    for damage in (lambda: paths[2].write_bytes(data[:pixels]), paths[2].unlink):
        damage()
        _, refused = run(tmp_path / "d", options)
        (problem,) = refused.problems
        assert "prefers, or takes equally well, cannot be used: series 8: 1 " in problem.text
        accepted = replace(options, dicom=replace(options.dicom, accepts_defective=True))
        _, prepared = run(tmp_path / "d", accepted)
        assert not prepared.problems
        (case,) = prepared.dataset.train
        assert case.strata["allowed"] == "defective"
        assert [(taken.modality, taken.number, taken.echo_time_ms) for taken in case.series] == [("t2w", 4, 101)]
        assert any(note.startswith("case 1 of 1: t2w takes series 4, because") for note in prepared.notes)
        stored = from_datalist(to_datalist(prepared.dataset), "d")
        assert stored.digest() == prepared.dataset.digest()
        assert stored.train[0].series == case.series


def test_unusable_cases_are_left_out_and_listed(tmp_path: Path) -> None:
    for number in range(4):
        write_study(tmp_path / "d", number, ManufacturerModelName="Vida" if number < 2 else "Skyra")
    paths = sorted((tmp_path / "d").rglob("t2/*.dcm"))
    paths[2].unlink()
    (tmp_path / "d/broken.dcm").write_bytes(bytes(128) + b"DICM")
    late = paths[6].read_bytes()
    paths[6].write_bytes(late[:-1000])  # its pixels are read after all headers
    options = make_options(skips_unusable=True)
    checked = prepare_import(tmp_path / "d", "d", options, mapping_path=tmp_path / "m.csv", salt=bytes(32))
    cases = (*checked.dataset.train, *checked.dataset.test)
    assert len(cases) == len(list(checked.encode_cases())) == 2
    assert len(checked.dataset.curation.unusable) == 3
    assert {case.strata["scanner"] for case in cases} == {"Skyra"}
    notes = "\n".join(note for note in checked.notes if note.startswith("left out: "))
    for reason in ("case 1 of 4", "1 slice missing", "case 2 of 4", "damaged or truncated", "begins like DICOM"):
        assert reason in notes
    for folder in ("2", "3"):
        next((tmp_path / f"d/{folder}/t2").glob("*2.dcm")).unlink()
    with pytest.raises(BadDataset, match="no case would be left"):
        run(tmp_path / "d", options)


def test_the_file_that_cannot_be_read_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    (tmp_path / "d" / os.fsdecode(b"M\xfcller.dcm")).write_bytes(bytes(128) + b"DICM" + bytes(100))
    discovered = discover(tmp_path / "d", "d", bytes(32), make_options(show_names=True))
    (case,) = (case for case in discovered.cases if case.source.problems)
    case.label.encode()
    mapping = tmp_path / "mapping.csv"
    add_to_mapping(mapping, [("d", case.id, case.group, case.source.name, case.patient)])
    add_to_mapping(mapping, [("d", "c", "g", "name", "patient")])
    assert b"M\xfcller.dcm" in mapping.read_bytes()


def test_a_file_that_changes_between_check_and_upload_is_noticed(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    checked = prepare_import(tmp_path / "d", "d", make_options(), mapping_path=tmp_path / "mapping.csv", salt=bytes(32))
    path = next((tmp_path / "d/0/t2").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadDataset, match="a file changed during the import"):
        list(checked.encode_cases())


def test_a_study_without_patient_needs_the_table_of_patients(tmp_path: Path) -> None:
    examination = write_study(tmp_path / "d", PatientID="")
    write_study(tmp_path / "d", 1)
    _, prepared = run(tmp_path / "d", make_options())
    (problem,) = prepared.problems
    assert "the files state no patient (PatientID); name the patients of the cases with --patients" in str(problem)
    discovered, prepared = run(tmp_path / "d", make_options(patients={examination.study_uid: "castorp"}))
    assert not prepared.problems
    assert "castorp" in {case.patient for case in discovered.cases}


def test_a_missing_patient_is_named_beside_other_problems(tmp_path: Path) -> None:
    examination = write_study(tmp_path / "d", SeriesDescription="t1", PatientID="")
    write_study(tmp_path / "d", 1, PatientID=lambda index: f"PID-{index % 2}")
    _, prepared = run(tmp_path / "d", make_options())
    texts = [problem.text.partition(":")[0].partition(" (")[0] for problem in prepared.problems]
    assert texts == [
        "nothing meets the selection of t2w", "the files state no patient", "its images state 2 different patients"
    ]  # fmt: skip
    _, prepared = run(tmp_path / "d", make_options(patients={examination.study_uid: "castorp"}))
    assert len(prepared.problems) == 2


def test_a_source_without_a_case_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "zauberberg.txt").write_text("no DICOM")
    with pytest.raises(BadDataset, match=r"no case found; left out: 1 file \(not DICOM\)") as caught:
        read_source(tmp_path, "dicom", DECLARATION, DicomOptions(SELECTIONS))
    assert "zauberberg" not in str(caught.value)


def test_problems_name_neither_patients_nor_files(tmp_path: Path) -> None:
    examination = write_study(tmp_path / "d")
    series = make_series(make_array(SHAPE, 1), examination=examination, number=5, description="t2")
    save(series, tmp_path / "d/0/zauberberg")
    (tmp_path / "d/zauberberg.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    discovered, prepared = run(tmp_path / "d", make_options())
    text = "\n".join(map(str, prepared.problems)).lower()
    assert "series 4" in text
    assert "series 5" in text
    assert "file 12 of 12, c-" in text
    assert not [mark for mark in (*examination.marks, "zauberberg") if mark.lower() in text]
    assert [case.source.name for case in discovered.cases] == [examination.study_uid, "zauberberg.dcm"]
    shown = discover(tmp_path / "d", "d", bytes(32), make_options(show_names=True))
    assert "zauberberg.dcm" in shown.cases[1].label


def test_refused_series_are_allowed_by_an_option_and_recorded(tmp_path: Path) -> None:
    write_study(tmp_path / "d", BurnedInAnnotation="YES")
    _, prepared = run(tmp_path / "d", make_options())
    assert "annotation" in str(prepared.problems[0])
    _, prepared = run(tmp_path / "d", make_options("burned_in_annotation"))
    assert not prepared.problems
    assert prepared.dataset.train[0].strata["allowed"] == "burned_in_annotation"


def test_volumes_of_several_frames_of_reference_are_allowed_by_an_option_and_recorded(tmp_path: Path) -> None:
    # The segmentation is drawn on another series than the modality, which it was not registered to.
    examination = write_study(tmp_path / "d", labelled=False)
    moved = replace(examination, frame_of_reference_uid=uid.generate_uid())
    other = make_series(make_array(SHAPE), examination=moved, number=5, description="t1")
    save(other, tmp_path / "d/0/t1")
    save(make_segmentation(other, {"gland": np.ones(SHAPE, bool)}), tmp_path / "d/0/seg")
    _, prepared = run(tmp_path / "d", make_options())
    (problem,) = prepared.problems
    assert "its volumes are not known to lie in one frame of reference (t2w; gland)" in str(problem)
    assert not [mark for mark in (*examination.marks, moved.frame_of_reference_uid) if mark in str(problem)]
    _, prepared = run(tmp_path / "d", make_options("frames_of_reference"))
    assert not prepared.problems
    assert prepared.dataset.train[0].strata["allowed"] == "frames_of_reference"


def test_a_damaged_file_is_named_before_the_splits_that_it_makes_impossible(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    (tmp_path / "d/damaged").write_bytes(bytes(128) + b"DICM" + bytes(100))
    _, prepared = run(tmp_path / "d", ImportOptions(declaration=DECLARATION, dicom=DicomOptions(SELECTIONS)))
    assert "begins like DICOM, but is truncated or damaged" in prepared.problems[0].text


def test_a_series_in_several_studies_is_a_problem_of_both(tmp_path: Path) -> None:
    series_uid = uid.generate_uid()
    for number in range(2):
        write_series(
            tmp_path / f"d/{number}", examination=Examination(study_uid=f"1.2.{number}"), number=4, description="t2",
            series_uid=series_uid, affine=make_affine(), attributes={"PatientID": "p"},
        )  # fmt: skip
    _, prepared = run(tmp_path / "d", make_options())
    assert [problem.text for problem in prepared.problems] == [
        "series 4 has images of other studies as well; export the study again"
    ] * 2


def test_truncated_pixels_are_a_problem_of_the_case(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    path = next((tmp_path / "d/0/t2").iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    _, prepared = run(tmp_path / "d", make_options())
    assert re.search(r"t2w \(series \d+\): file \d+ of \d+: damaged or truncated", prepared.problems[0].text)
