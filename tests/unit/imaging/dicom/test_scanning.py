"""Scanning: what of a source becomes studies, what is left out with a note, and what is refused."""

from __future__ import annotations

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite, uid
from tests.dicom_contours import to_contour, write_structure_set
from tests.dicom_files import (
    Examination,
    make_affine,
    make_array,
    make_enhanced,
    make_segmentation,
    make_series,
    save,
    write_enhanced,
    write_series,
)

from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.dicom import instances, stacks
from vfmalign.imaging.dicom.examinations import Study
from vfmalign.imaging.dicom.refusals import REFUSALS, check_allowed
from vfmalign.imaging.dicom.scanning import Examinations, scan
from vfmalign.imaging.dicom.screening import screen_number, screen_text
from vfmalign.imaging.dicom.sources import open_source


def scan_folder(folder: Path, *allowed: str) -> Examinations:
    source = open_source(folder)
    try:
        return scan(source, allowed)
    finally:
        source.close()


def scan_study(folder: Path, *allowed: str) -> Study:
    examinations = scan_folder(folder, *allowed)
    assert not examinations.unusable
    (study,) = examinations.studies
    return study


def describe(study: Study) -> list[tuple[str, list[int], str]]:
    return [(series.label, [len(stack.frames) for stack in series.stacks], series.problem) for series in study.series]


def test_files_become_studies_series_and_stacks(tmp_path: Path) -> None:
    examination = Examination()
    t2w = make_series(examination=examination, number=4)
    save(t2w, tmp_path / "a")
    write_enhanced(tmp_path / "b", make_array((40, 34, 5, 2)), examination=examination, number=6, b_values=(50, 800))
    save(make_segmentation(t2w, {"gland": np.ones((40, 34, 5), bool)}), tmp_path / "c")
    write_series(tmp_path / "d", number=2)

    examinations = scan_folder(tmp_path)
    assert not examinations.notes
    assert not examinations.unusable
    study = next(study for study in examinations.studies if study.uid == examination.study_uid)
    assert len(examinations.studies) == 2
    assert describe(study) == [("series 4", [5], ""), ("series 6", [5, 5], "")]
    assert [(item.label, len(item.segments)) for item in study.segmentations] == [("series 100", 1)]
    assert study.patient == f"{examination.patient_id}^^^{examination.issuer}"
    assert study.series[0].stacks[0].attributes["EchoTime"] == 101
    assert {"zauberberg", "walpurga", "davos"} <= study.private_words


def test_all_text_is_hidden_and_numbers_are_shown_that_identify_nobody(tmp_path: Path) -> None:
    write_series(tmp_path, examination=Examination(patient_id="PID-4711"), number=3)
    (study,) = scan(open_source(tmp_path)).studies
    assert study.series[0].label == "series 3"
    assert screen_text("Zauberberg t2", study.private_words) == "…"
    assert [screen_number(number, study.private_words) for number in (4711, 800)] == ["…", ""]


def test_nothing_is_hidden_where_the_user_says_so(tmp_path: Path) -> None:
    write_series(tmp_path, number=20240229)
    (study,) = scan(open_source(tmp_path), show_text=True).studies
    assert (study.series[0].label, study.private_words) == ("series 20240229", None)


def test_a_study_of_endless_names_is_scanned_and_keeps_some_of_them(tmp_path: Path) -> None:
    series = make_series(make_array((40, 34, 80)), examination=Examination())
    for number, image in enumerate(series):
        image.PatientName = f"name{number:03} " + "x" * 5_000
    save(series, tmp_path)
    (study,) = scan_folder(tmp_path).studies
    assert study.private_words is not None
    assert "name000" in study.private_words
    assert len(study.private_words) < 2 * 64 + 10
    assert max(map(len, study.private_words)) <= 1_024


@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID"])
def test_an_object_that_leaves_the_patient_out_contradicts_no_other(tmp_path: Path, keyword: str) -> None:
    examination = Examination()
    t2w = make_series(examination=examination)
    segmentation = make_segmentation(t2w, {"gland": np.ones((40, 34, 5), bool)})
    delattr(segmentation, keyword)
    save([*t2w, segmentation], tmp_path)
    (study,) = scan_folder(tmp_path).studies
    assert not study.problems
    assert study.patient == f"{examination.patient_id}^^^{examination.issuer}"


def test_several_sizes_of_one_image_are_a_problem_of_its_series(tmp_path: Path) -> None:
    series = make_series()
    del series[0].Rows
    series[0].add_new(0x00280010, "IS", ["40", "40"])
    save(series, tmp_path)
    (study,) = scan_folder(tmp_path).studies
    assert study.series[0].problem == "1 image (file 1 of 5): it states several sizes"


def test_a_series_of_very_many_planes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_PLANES", 3)
    write_series(tmp_path, attributes={"PixelSpacing": lambda number: [1 + 0.1 * number, 1]})
    (study,) = scan_folder(tmp_path).studies
    assert study.series[0].problem.startswith("more than 3 orientations, sizes and pixel spacings; export")
    assert not study.series[0].stacks


def test_a_structure_set_is_a_segmentation_without_pixels(tmp_path: Path) -> None:
    image = make_series(number=4)
    contour = to_contour([(2, 2), (9, 2), (9, 9)], 1)
    save(image, tmp_path / "a")
    write_structure_set(tmp_path / "b", image, {"gland": [contour], "lesion": []}, make_affine())
    study = scan_study(tmp_path)
    assert describe(study) == [("series 4", [5], "")]
    (item,) = study.segmentations
    assert (item.label, [segment.label for segment in item.segments]) == ("series 101", ["gland", "lesion"])


def test_a_structure_set_without_regions_is_left_out(tmp_path: Path) -> None:
    image = make_series(number=4)
    save(image, tmp_path / "a")
    write_structure_set(tmp_path / "b", image, {}, make_affine())
    examinations = scan_folder(tmp_path)
    assert not examinations.studies[0].segmentations
    assert examinations.notes == ("left out: 1 segmentation (no segments, or more than 1024)",)


def test_progress_counts_files(tmp_path: Path) -> None:
    write_series(tmp_path)
    calls: list[tuple[str, int, int]] = []
    scan(open_source(tmp_path), progress=lambda *call: calls.append(call))
    assert calls == [("scan", done, 5) for done in range(1, 6)]


def test_ten_thousand_files_that_are_not_dicom_are_one_note(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for number in range(9_998):
            archive.writestr(f"{number}.txt", b"Zauberberg^Walpurga" * 20)
        archive.writestr("short", b"")
        # Begins like a data set without preamble, and is none.
        archive.writestr("plausible", b"\x08\x00\x05\x00CS\x0a\x00" + b"x" * 500)
        archive.writestr("inner.zip", (tmp_path / "d.zip").read_bytes()[:1000])
    examinations = scan_folder(tmp_path / "d.zip")
    assert examinations.notes == (
        "left out: 10000 files (not DICOM)",
        "left out: 1 zip (inside the source; not opened)",
    )
    assert not examinations.studies
    assert not examinations.unusable


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    for number, dataset in enumerate(make_series()):
        del dataset.file_meta
        dcmwrite(tmp_path / f"{number}", dataset, implicit_vr=number % 2 == 0, little_endian=True)
    assert describe(scan_study(tmp_path)) == [("series 1", [5], "")]


def test_objects_that_are_no_images_are_noted_by_their_kind(tmp_path: Path) -> None:
    write_series(tmp_path)
    report = make_series()[0]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = uid.BasicTextSRStorage
    del report.PixelData, report.Rows, report.Columns
    save(report, tmp_path / "a")
    private = make_series()[0]
    private.SOPClassUID = private.file_meta.MediaStorageSOPClassUID = "1.2.3.4711"
    del private.PixelData, private.Rows, private.Columns
    save(private, tmp_path / "b")
    assert scan_folder(tmp_path).notes == (
        "left out: 1 object (not an image: Basic Text SR Storage)",
        "left out: 1 object (not an image: an unknown kind)",
    )


def test_copies_are_left_out_and_other_content_under_an_identifier_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    examinations = scan_folder(tmp_path)
    assert describe(examinations.studies[0]) == [("series 1", [5], "")]
    assert examinations.notes == ("left out: 5 files (copy of another)",)

    changed = dcmread(paths[0])
    changed.EchoTime = 60
    changed.save_as(tmp_path / "b" / paths[0].name)
    (series,) = scan_folder(tmp_path).studies[0].series
    problem = "1 image (file 6 of 10): same identifier (SOPInstanceUID) as another image, but different content"
    assert series.problem == problem


def test_a_repeated_series_stays_two_candidates(tmp_path: Path) -> None:
    examination, array = Examination(), make_array()
    for folder in ("a", "b"):
        write_series(tmp_path / folder, array, examination=examination, number=4)
    assert describe(scan_study(tmp_path)) == [("series 4.1", [5], ""), ("series 4.2", [5], "")]


def test_numbers_of_series_that_may_identify_are_not_shown(tmp_path: Path) -> None:
    write_series(tmp_path, attributes={"SeriesNumber": 20240229})
    assert describe(scan_study(tmp_path)) == [("unnumbered series", [5], "")]


def test_a_series_in_several_studies_is_a_problem_of_each(tmp_path: Path) -> None:
    first, second = Examination(), Examination()
    series_uid = uid.generate_uid()
    write_series(tmp_path / "a", examination=first, series_uid=series_uid)
    write_series(tmp_path / "b", examination=second, series_uid=series_uid)
    expected = "series 1 has images of other studies as well; export the study again"
    assert [study.problems for study in scan_folder(tmp_path).studies] == [(expected,), (expected,)]


def test_several_patients_in_a_study_are_a_problem(tmp_path: Path) -> None:
    write_series(tmp_path, attributes={"PatientID": lambda index: f"PID-{index // 3}"})
    study = scan_study(tmp_path)
    assert study.patient == "PID-1^^^SANATORIUM-BERGHOF"
    assert study.problems == ("its images state 2 different patients (PatientID); export the study again",)


def _add_overlay(dataset: Dataset) -> None:
    dataset.add_new(0x60020010, "US", 40)
    dataset.add_new(0x60023000, "OW", bytes(340))


def _make_capture(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage


CHANGES = {
    "burned_in_annotation": lambda dataset: setattr(dataset, "BurnedInAnnotation", "YES"),
    "overlay": _add_overlay,
    "secondary_capture": _make_capture,
}


@pytest.mark.parametrize("name", [name for name, refusal in REFUSALS.items() if refusal.applies])
def test_what_may_hold_text_is_refused_unless_it_is_allowed(tmp_path: Path, name: str) -> None:
    datasets = make_series()
    CHANGES[name](datasets[2])  # a single image refuses its series
    save(datasets, tmp_path)
    (series,) = scan_study(tmp_path).series
    assert series.problem == (
        f"{REFUSALS[name].text}; look at the images, and if they name nobody, allow them with --allow {name}"
    )
    (series,) = scan_study(tmp_path, name).series
    assert series.problem == ""
    assert series.allowed == (name,)
    (series,) = scan_study(tmp_path, *(REFUSALS.keys() - {name})).series
    assert series.problem
    assert not series.allowed


def test_an_unknown_refusal_cannot_be_allowed() -> None:
    with pytest.raises(BadOption, match="--allow: 'faces' is not a refusal; choose from burned_in_annotation"):
        check_allowed(["overlay", "faces"])


def test_files_that_are_cut_off_are_named_by_their_place(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:600])
    (unusable,) = scan_folder(tmp_path).unusable
    assert unusable.place == "file 2 of 5"
    assert unusable.file == paths[1].name
    assert (
        unusable.problem
        == "the file is cut off, or states no identifier of its study, series or instance; export it again"
    )

    paths[1].write_bytes(data[:150])
    (unusable,) = scan_folder(tmp_path).unusable
    damage = "the file begins like DICOM, but is truncated or damaged"
    assert unusable.problem == f"{damage}; export it again, or move it away"

    paths[1].write_bytes(data[: data.index(b"\xe0\x7f\x10\x00")])
    (series,) = scan_study(tmp_path).series
    assert series.problem == "1 image (file 2 of 5): cut off before its pixels"


def test_a_file_compressed_as_a_whole_is_inflated_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, syntax=uid.DeflatedExplicitVRLittleEndian)
    assert describe(scan_study(tmp_path)) == [("series 1", [5], "")]
    monkeypatch.setattr(instances, "MAX_INFLATED_BYTES", 1000)
    unusable = scan_folder(tmp_path).unusable
    assert len(unusable) == 5
    assert unusable[0].problem.startswith("the file holds more than")


def test_missing_identifiers_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a", attributes={"StudyInstanceUID": ""})
    unusable = scan_folder(tmp_path).unusable
    assert [file.place for file in unusable] == [f"file {number} of 5" for number in range(1, 6)]
    assert (
        unusable[0].problem
        == "the file is cut off, or states no identifier of its study, series or instance; export it again"
    )


def test_a_damaged_member_of_a_zip_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path / "a")[0]
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "Zauberberg^Walpurga")
    data = bytearray((tmp_path / "d.zip").read_bytes())
    data[100:400] = bytes(300)
    (tmp_path / "d.zip").write_bytes(data)
    (unusable,) = scan_folder(tmp_path / "d.zip").unusable
    assert "Zauberberg" not in unusable.problem
    assert unusable.place == "file 1 of 1"


def test_a_long_header_is_read_whole(tmp_path: Path) -> None:
    dataset = make_enhanced(make_array((40, 34, 64)), make_affine())
    dataset.add_new(0x00091010, "OB", bytes(2**20))  # behind what is read at first
    dataset.add_new(0x00090010, "LO", "ACME")
    save(dataset, tmp_path)
    assert describe(scan_study(tmp_path)) == [("series 1", [64], "")]


def test_nothing_is_printed_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_series(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"4200", b"Zaub").replace(b"19240712", b"Zauberbe"))
    scan_folder(tmp_path)
    output = capfd.readouterr()
    assert not output.out
    assert not output.err
    assert not caplog.records


def test_a_scan_keeps_two_kibibytes_for_a_frame(tmp_path: Path) -> None:
    few, many = 64, 192
    used_bytes: dict[int, int] = {}
    for frames in (few, few, many):  # the first scan also imports, and fills caches
        folder = tmp_path / f"{frames}"
        if not folder.exists():
            write_enhanced(folder, make_array((4, 4, frames)))
        tracemalloc.start()
        examinations = scan_folder(folder)
        used_bytes[frames], _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert describe(examinations.studies[0]) == [("series 1", [frames], "")]
    assert used_bytes[many] - used_bytes[few] < 2_048 * (many - few)
