"""Reading of a study: the volumes of its import, and nothing of what the model does not take."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from tests.dicom_files import Examination, make_array, make_enhanced, make_series, write_prostate
from tests.hostile.client import SPEC
from tests.hostile.dicom_rows import to_bytes
from tests.integration.features.dicom_service import make_declaration

from vfmalign.client.messages.features import PacsReference
from vfmalign.core.domain.errors import BadPacsAnswer, BadVolume, Cancelled, DeadlineExceeded
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.features.dicom.reading import FIELD, InlineSource, read_study
from vfmalign.features.extraction.study import Source
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.importer import prepare_import
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.datasets.layouts.sources import DicomOptions
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import decode

RULES = parse_declaration(make_declaration())
KINDS = ("t2w", "dwi", "adc", "gland")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_prostate(folder, generate_case(11, 0, SPEC), patient_id="PID-4711")
    return folder


def read(
    files: list[bytes], kinds: tuple[str, ...] = KINDS, context: WorkContext = UNLIMITED, study_uid: str = ""
) -> dict[str, Source]:
    expected = PacsReference(server="main", study_uid=study_uid) if study_uid else None
    read = read_study(InlineSource(files), RULES, kinds, Stages(), context, expected=expected)
    return {source.kind: source for source in read.sources}


def list_files(study: Path, *, without_adc: bool = False) -> list[bytes]:
    """The files of the study, perhaps without ADC and segmentation."""
    files = sorted(study.rglob("*.dcm"))
    if without_adc:
        files = [path for path in files if not is_adc(dcmread(path, stop_before_pixels=True))]
    return [path.read_bytes() for path in files]


def is_adc(header: Dataset) -> bool:
    return (
        header.Modality == "SEG" or "ADC" in str(header.get("ImageType")) + str(header.get("SeriesDescription")).upper()
    )


def test_the_volumes_are_those_that_an_import_stores(study: Path, tmp_path: Path) -> None:
    options = ImportOptions(layout="dicom", declaration=RULES.declaration, dicom=DicomOptions(RULES.selections))
    checked = prepare_import(study, "d", options, mapping_path=tmp_path / "mapping.csv", salt=bytes(32))
    (stored,) = checked.encode_cases()
    expected = dict(zip(sorted(KINDS), stored, strict=True))
    for kind, source in read(list_files(study)).items():
        assert isinstance(source.content, bytes)
        volumes = [decode(data, kind, kind, is_label=kind == "gland") for data in (source.content, expected[kind])]
        np.testing.assert_array_equal(volumes[0].array_XYZ, volumes[1].array_XYZ)
        np.testing.assert_array_equal(volumes[0].affine, volumes[1].affine)
        assert volumes[0].array_XYZ.dtype == volumes[1].array_XYZ.dtype


def test_the_series_that_were_read_are_described(study: Path) -> None:
    sources, series, b_values = read_study(InlineSource(list_files(study)), RULES, ("dwi", "t2w"), Stages(), UNLIMITED)
    dwi = next(taken for taken in series if taken.modality == "dwi")
    assert {taken.modality: taken.number for taken in series} == {"t2w": 4, "dwi": 6}
    assert (dwi.b_value, dwi.calculated, dwi.echo_time_ms, dwi.orientation) == (800, False, 63, "transverse")
    assert isinstance(sources[0].content, bytes)
    affine = decode(sources[0].content, "dwi", "dwi").affine
    assert dwi.spacing_mm == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0), abs=1e-5)
    assert b_values == {"dwi_b_value": "800 s/mm²"}


def test_a_defective_series_is_not_replaced_by_another(study: Path) -> None:
    header = dcmread(next(study.rglob("*.dcm")), stop_before_pixels=True)
    examination = Examination(study_uid=header.StudyInstanceUID, patient_id="PID-4711")
    better = make_series(
        make_array((40, 34, 5)), examination=examination, number=8, b_values=(1400,), heights=(0, 1, 2, 4, 5)
    )
    with pytest.raises(BadVolume, match=r"series 8: 1 slice missing between others") as refused:
        read([*list_files(study), *to_bytes(better)])
    assert refused.value.remedy.startswith("export it again")


def test_what_the_model_does_not_take_may_be_missing(study: Path) -> None:
    files = list_files(study, without_adc=True)
    assert list(read(files, ("t2w", "dwi"))) == ["t2w", "dwi"]
    with pytest.raises(BadVolume, match="nothing meets the selection of adc") as missing:
        read(files, ("t2w", "adc"))
    assert (missing.value.field, bool(missing.value.remedy)) == (FIELD, True)
    with pytest.raises(BadVolume, match="no segmentation that matches the rules for gland") as undrawn:
        read(files, ("t2w", "gland"))
    assert (undrawn.value.field, bool(undrawn.value.remedy)) == (FIELD, True)


def test_a_file_that_cannot_be_used_is_told_from_the_others(study: Path) -> None:
    files = list_files(study)
    files[2] = files[2][:400]
    with pytest.raises(
        BadVolume, match=f"file 3 of {len(files)}: the file begins like DICOM, but is truncated"
    ) as caught:
        read(files)
    assert caught.value.remedy == "export it again, or move it away"


def test_a_file_whose_pixels_are_cut_off_is_named_by_its_place_and_series(study: Path) -> None:
    files = list_files(study)
    numbers = [dcmread(path, stop_before_pixels=True).SeriesNumber for path in sorted(study.rglob("*.dcm"))]
    place = numbers.index(4) + 1
    files[place] = files[place][:-100]
    with pytest.raises(BadVolume) as caught:
        read(files)
    start = f"study.dicom/t2w (series 4): file {place + 1} of {len(files)}: damaged or truncated DICOM"
    assert str(caught.value).startswith(start)


def test_a_pacs_that_answers_with_another_study_is_refused(study: Path) -> None:
    files = list_files(study)
    uid = dcmread(next(study.rglob("*.dcm"))).StudyInstanceUID
    assert read(files, ("t2w",), study_uid=uid)
    with pytest.raises(BadPacsAnswer, match="PACS main: it answers with images of another study") as caught:
        read(files, ("t2w",), study_uid="1.2.3")
    assert uid not in str(caught.value)


def test_nobody_waits_for_a_study_that_is_of_no_use(study: Path) -> None:
    files = list_files(study)
    with pytest.raises(DeadlineExceeded):
        read(files, context=WorkContext(deadline=time.monotonic() - 1))
    opened: list[int] = []

    def is_cancelled() -> bool:
        opened.append(1)
        return len(opened) > 3

    with pytest.raises(Cancelled):
        read(files, context=WorkContext(is_cancelled=is_cancelled))
    assert len(opened) < 10  # of more than fifty files


def test_the_frames_of_one_file_are_read_while_somebody_waits() -> None:
    checks: list[int] = []

    def is_cancelled() -> bool:
        checks.append(1)
        return False

    (file,) = to_bytes([make_enhanced(make_array((40, 34, 30)))])
    read([file], ("t2w",), WorkContext(is_cancelled=is_cancelled))
    assert len(checks) > 30


def test_files_of_two_studies_are_refused() -> None:
    files = [*to_bytes(make_series(make_array((40, 34, 3)))), *to_bytes(make_series(make_array((40, 34, 3))))]
    with pytest.raises(BadVolume, match="expected the images of one study, got 2"):
        read(files, ("t2w",))
