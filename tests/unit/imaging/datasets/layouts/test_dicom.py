"""The layout of DICOM files: how it is detected, and what a study becomes."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.dicom_contours import make_structure_set, to_contour
from tests.dicom_files import Examination, make_affine, make_array, make_segmentation, make_series, save, write_series
from tests.unit.imaging.datasets.layouts.dicom_studies import (
    DECLARATION,
    SELECTIONS,
    SHAPE,
    make_options,
    make_zip,
    run,
    write_study,
)

from vfmalign.core.domain.datasets import Curation
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.storage.datasets import from_datalist, to_datalist
from vfmalign.imaging.datasets.discovery import discover
from vfmalign.imaging.datasets.importer import prepare_import
from vfmalign.imaging.datasets.layouts.registry import detect_layout, read_source
from vfmalign.imaging.datasets.layouts.sources import DicomOptions
from vfmalign.imaging.dicom.rules import SegmentRule, Selections
from vfmalign.imaging.dicom.rules.conditions import Conditions


def test_a_study_becomes_a_case(tmp_path: Path) -> None:
    examinations = [write_study(tmp_path / "d", number) for number in range(3)]
    discovered, prepared = run(tmp_path / "d", make_options())
    assert discovered.layout == "dicom"
    assert not prepared.problems
    assert [case.source.name for case in discovered.cases] == [item.study_uid for item in examinations]
    assert [case.patient for case in discovered.cases] == [
        f"{item.patient_id}^^^{item.issuer}" for item in examinations
    ]
    assert [case.place for case in discovered.cases] == ["case 1 of 3", "case 2 of 3", "case 3 of 3"]
    cases = [case for split in ("train", "val", "test") for case in prepared.dataset.split(split)]
    assert all(set(case.volumes) == {"t2w", "gland"} for case in cases)
    assert cases[0].strata == {
        "manufacturer": "siemens",
        "scanner": "Skyra",
        "field_strength": "3 T",
        "t2w_slice_thickness": "3 mm",
        "t2w_echo_time": "100 ms",
        "t2w_repetition_time": "4 s",
    }


def test_studies_are_left_out_and_series_chosen_by_number(tmp_path: Path) -> None:
    """Study 1 has two equal series, and in study 2 a slice is missing; 3 and 4 are sound."""
    for number in range(4):
        examination = write_study(tmp_path / "d", number, AcquisitionTime="115343.65")
        if number == 0:
            again = {"AcquisitionTime": "120243"}
            write_series(
                tmp_path / "d/0/again", make_array(SHAPE), number=10, description="t2", attributes=again,
                examination=examination,
            )  # fmt: skip
    next((tmp_path / "d/1/t2").glob("*2.dcm")).unlink()
    discovered, prepared = run(tmp_path / "d", make_options())
    assert [problem.case for problem in prepared.problems] == [case.label for case in discovered.cases[:2]]
    assert "series 10, acquired 9 min later" in prepared.problems[0].text
    ids = [case.id for case in discovered.cases]

    options = make_options(exclude=frozenset({2}))
    options = replace(options, dicom=replace(options.dicom, choices={1: {"t2w": "10"}}))
    checked = prepare_import(tmp_path / "d", "d", options, mapping_path=tmp_path / "m.csv", salt=bytes(32))
    assert checked.dataset.curation == Curation(excluded=(ids[1],), chosen={ids[0]: {"t2w": "10"}})
    assert {case.id for case in (*checked.dataset.train, *checked.dataset.test)} == {ids[0], ids[2], ids[3]}
    assert f"left out: case 2 of 4, {ids[1]}: excluded by --exclude" in checked.notes
    assert len(list(checked.encode_cases())) == 3
    stored = from_datalist(to_datalist(checked.dataset), "d")
    assert (stored.curation, stored.digest()) == (checked.dataset.curation, checked.dataset.digest())
    assert stored.digest() != stored.model_copy(update={"curation": Curation()}).digest()


def test_b_values_that_differ_between_cases_are_noted(tmp_path: Path) -> None:
    kinds = [(800, "t2"), (800, "t2"), (1400, "t2"), (800, "t2 CALC_BVAL")]
    options = make_options()
    rule = Selections.model_validate(
        {"selections": [{"name": "t2w", "conditions": {"SeriesDescription": {"contains": "t2"}}}]}
    ).selections
    options = replace(options, dicom=replace(options.dicom, selections=rule))
    for number, (b_value, description) in enumerate(kinds):
        examination = Examination(patient_id=f"PID-{number}", study_uid=f"1.2.3.{number}")
        write_series(
            tmp_path / f"d/{number}", make_array((*SHAPE, 1), seed=number), examination=examination, number=6,
            description=description, b_values=(b_value,),
        )  # fmt: skip
    _, prepared = run(tmp_path / "d", options)
    (mixed,) = prepared.dataset.list_mixed_series()
    assert mixed.startswith("t2w has 800 s/mm², acquired in 2 cases; ")
    assert "; 1400 s/mm², acquired in 1 case" in mixed
    assert "; 800 s/mm², calculated in 1 case" in mixed
    assert [note for note in prepared.notes if note.startswith(f"{mixed}: their contrast differs")]
    _, alike = run(tmp_path / "d", replace(options, exclude=frozenset({3, 4})))
    assert alike.dataset.list_mixed_series() == ()


def test_a_dry_run_says_why_no_case_is_in_a_split(tmp_path: Path) -> None:
    for number in range(2):
        write_study(tmp_path / "d", number, BurnedInAnnotation="YES" if number else "NO")
    _, prepared = run(tmp_path / "d", make_options(shares=None))
    assert "no case is in a split: 2 patients cannot fill 3 disjoint splits" in "\n".join(prepared.notes)


@pytest.mark.parametrize(
    ("exclude", "choices", "message"),
    [
        ({3}, {}, "--exclude: there is no study 3; use numbers from 1 to 2"),
        ({1, 2}, {}, "exclude: no case would be left"),
        ((), {3: {"t2w": "4"}}, "--choose: there is no study 3"),
        ((), {1: {"t2w": "9"}}, "--choose: a study has no series 9 that t2w could take; name a series"),
        ((), {1: {"adc": "4"}}, "--choose: 'adc' has no rule; choose a series for t2w, gland"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, exclude: object, choices: object, message: str) -> None:
    for number in range(2):
        write_study(tmp_path / "d", number, labelled=False)
    options = make_options(exclude=frozenset(exclude))
    options = replace(options, dicom=replace(options.dicom, choices=choices))
    with pytest.raises((BadOption, BadDataset)) as refused:
        discover(tmp_path / "d", "d", bytes(32), options)
    assert message in f"{refused.value}"


def test_strata_know_the_patients_that_are_left(tmp_path: Path) -> None:
    for number in range(3):
        write_study(
            tmp_path / "d", number, labelled=number != 1, ManufacturerModelName="Vida" if number < 2 else "Skyra"
        )
    for options in (make_options(), make_options(only_with=("gland",))):
        _, prepared = run(tmp_path / "d", options)
        cases = [case for split in ("train", "val", "test") for case in prepared.dataset.split(split)]
        scanners = sorted(case.strata["scanner"] for case in cases)
        assert scanners == (["other", "other"] if options.only_with else ["Vida", "Vida", "other"])


def test_a_zip_gives_what_its_folder_gives(tmp_path: Path) -> None:
    for number in range(3):
        write_study(tmp_path / "d", number)
    first, second = (run(path, make_options())[1].dataset for path in (tmp_path / "d", make_zip(tmp_path / "d")))
    assert first.digest() == second.digest()
    assert first.train


def test_stages_are_reported_in_files_and_cases(tmp_path: Path) -> None:
    for number in range(2):
        write_study(tmp_path / "d", number)
    calls: list[tuple[str, int, int]] = []
    checked = prepare_import(
        tmp_path / "d", "d", make_options(), mapping_path=tmp_path / "mapping.csv", salt=bytes(32),
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert calls == [*(("scan", done, 12) for done in range(1, 13)), ("validate", 1, 2), ("validate", 2, 2)]
    assert sum(len(volumes) for volumes in checked.encode_cases()) == 4
    assert "1.2.3.1,PID-1^^^SANATORIUM-BERGHOF" in (tmp_path / "mapping.csv").read_text()


def test_layouts_are_detected(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    for path in (tmp_path / "d", make_zip(tmp_path / "d")):
        assert detect_layout(path) == "dicom"
    (tmp_path / "e").mkdir()
    next((tmp_path / "d").rglob("*.dcm")).rename(tmp_path / "e/IM0001")
    assert detect_layout(tmp_path / "e") == "dicom", "files need no ending"
    (tmp_path / "e/t2.nii").touch()
    assert detect_layout(tmp_path / "e") == "folders", "where there are NIfTI files, DICOM is named"
    assert read_source(tmp_path / "e", "dicom")[1].notes[0] == "left out: 1 file (not DICOM)"


def test_a_label_map_that_no_segmentation_gives_is_noted(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    assert read_source(tmp_path / "d", "dicom", DECLARATION, DicomOptions(SELECTIONS))[1].notes == ()
    _, without = read_source(tmp_path / "d", "dicom", DECLARATION, DicomOptions(SELECTIONS[:1]))
    assert without.notes == ("gland: it has no selection",)
    other = SELECTIONS[1].model_copy(update={"segments": {1: SegmentRule(number=2)}})
    _, unmet = read_source(tmp_path / "d", "dicom", DECLARATION, DicomOptions((SELECTIONS[0], other)))
    assert unmet.notes == (
        "gland: its selection matches nothing in 1 of 1 studies with segmentations; "
        "`vfmalign dicom show` lists the reasons",
    )


def test_a_structure_set_gives_the_label_map_that_a_segmentation_gives(tmp_path: Path) -> None:
    series = make_series(make_array(SHAPE), examination=Examination(study_uid="1.2.3"), number=4, description="t2")
    mask = np.zeros(SHAPE, bool)
    mask[5:9, 4:7, 1:3] = True
    contours = [to_contour([(5, 4), (9, 4), (9, 7), (5, 7)], z) for z in (1, 2)]
    drawn = {"SEG": make_segmentation(series, {"gland": mask}),
             "RTSTRUCT": make_structure_set(series, {"GLAND": contours, "other": []}, make_affine())}  # fmt: skip
    digests: dict[str, str] = {}
    for kind, dataset in drawn.items():
        save([*series, dataset], tmp_path / kind)
        gland = SELECTIONS[1].model_copy(update={"conditions": Conditions.model_validate({"Modality": kind})})
        options = dataclasses.replace(make_options(), dicom=DicomOptions((SELECTIONS[0], gland)))
        _, prepared = run(tmp_path / kind, options)
        assert not prepared.problems
        (case,) = prepared.dataset.split("train")
        digests[kind] = case.volumes["gland"].sha256
    assert digests["RTSTRUCT"] == digests["SEG"]


def test_a_modality_is_read_in_its_declared_unit(tmp_path: Path) -> None:
    """Values that are SUV by themselves stay, and those that cannot become SUV are a problem of their case."""
    for number, units in enumerate(("GML", "GML", "BQML")):
        write_study(tmp_path / "d", number, Units=units, labelled=False)
    options = make_options()
    _, prepared = run(tmp_path / "d", options)
    assert not prepared.problems
    declaration = DECLARATION.model_copy(update={"units": {"t2w": "SUVbw"}})
    _, prepared = run(tmp_path / "d", dataclasses.replace(options, declaration=declaration))
    (problem,) = prepared.problems
    assert "SUVbw cannot be computed: its CorrectedImage does not state ATTN and DECY" in problem.text
    assert len(prepared.dataset.split("train")) + len(prepared.dataset.split("test")) == 2


def test_rules_that_nobody_chose_are_noted(tmp_path: Path) -> None:
    write_study(tmp_path / "d", labelled=False)
    _, source = read_source(tmp_path / "d")
    assert source.notes == ("without --declaration, DICOM is read by the rules of prostate_mpmri",)


def test_cases_without_a_label_map_can_be_left_out(tmp_path: Path) -> None:
    write_study(tmp_path / "d", 0, labelled=False)
    write_study(tmp_path / "d", 1)
    discovered, prepared = run(tmp_path / "d", make_options(only_with=("gland",)))
    assert [case.source.name for case in discovered.cases] == ["1.2.3.1"]
    assert any("left out: 1 case without gland" in note for note in prepared.notes)


def test_a_declaration_that_chooses_no_series_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path / "d")
    with pytest.raises(BadOption, match="knee has no selection for t2w"):
        read_source(tmp_path / "d", "dicom", DECLARATION)
    with pytest.raises(BadOption, match="'faces' is not a refusal"):
        read_source(tmp_path / "d", "dicom", DECLARATION, DicomOptions(SELECTIONS, ("faces",)))
