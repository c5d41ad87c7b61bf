"""SUVbw of synthetic PET, whose uptake is known, and the attributes without which it is not computed.

Legend: X, Y, Z are columns, rows and slices.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from tests import dicom_files

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.frames import list_frames
from vfmalign.imaging.dicom.pet.suv import find_factor, read_suv
from vfmalign.imaging.dicom.stacks import divide
from vfmalign.imaging.volumes import Volume

NAME = "c-1/pet"
SHAPE = (40, 34, 5)
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 71.5, 353.2e6, 6586.2
EXAMINATION = dicom_files.Examination()


class MemorySource:
    """Files in memory."""

    def __init__(self, datasets: list[Dataset]) -> None:
        self.contents: dict[str, bytes] = {}
        for index, dataset in enumerate(datasets):
            file = io.BytesIO()
            dataset.save_as(file, enforce_file_format=True)
            self.contents[f"{index}"] = file.getvalue()

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.contents[name])


def make_pet(
    array: NDArray[Any] | None = None,
    slopes: Callable[[int], float] = lambda index: 1.0,
    change: Callable[[Dataset], object] = lambda dataset: None,
) -> list[Dataset]:
    """F-18 that was injected at 9:11:12 of the day of the examination, an hour before the scan."""
    attributes: dict[str, Any] = {
        "Units": "BQML", "CorrectedImage": ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"], "DecayCorrection": "START",
        "PatientWeight": str(WEIGHT_KG), "SeriesTime": "101112.00", "AcquisitionTime": lambda z: f"10{12 + z}00",
        "RescaleSlope": lambda z: f"{slopes(z):.10f}"[:16], "RescaleIntercept": "0",
        "FrameReferenceTime": "0", "ActualFrameDuration": "60000",
    }  # fmt: skip
    datasets = dicom_files.make_series(
        dicom_files.make_array(SHAPE) if array is None else array,
        examination=EXAMINATION, modality="PT", number=5, description="pet", attributes=attributes,
    )  # fmt: skip
    for dataset in datasets:
        injection = Dataset()
        injection.RadiopharmaceuticalStartTime, injection.RadionuclideTotalDose = "091112.00", str(DOSE_BQ)
        injection.RadionuclideHalfLife = str(HALF_LIFE_S)
        dataset.RadiopharmaceuticalInformationSequence = [injection]
        change(dataset)
    return datasets


def read(datasets: list[Dataset]) -> Volume:
    source = MemorySource(datasets)
    (stack,) = divide([frame for index, item in enumerate(datasets) for frame in list_frames(item, f"{index}")])
    return read_suv(source, stack, NAME, "pet")  # type: ignore[arg-type]


def get_factor(**attributes: Any) -> float:
    """The factor of an image with other attributes; None removes one. Those of the injection begin with `Radio`."""
    (dataset, *_) = make_pet()
    for keyword, value in attributes.items():
        holder = dataset.RadiopharmaceuticalInformationSequence[0] if keyword.startswith("Radio") else dataset
        if value is None:
            delattr(holder, keyword)
        else:
            setattr(holder, keyword, value)
    return find_factor(dataset, NAME)


def expect(decay_s: float, half_life_s: float = HALF_LIFE_S) -> Any:
    """The factor after this time."""
    return pytest.approx(1000 * WEIGHT_KG / (DOSE_BQ * 0.5 ** (decay_s / half_life_s)), rel=1e-9)


def test_activity_that_is_spread_evenly_has_an_suv_of_one() -> None:
    """A body of 71.5 kg that holds all that is left of the dose after an hour; a lesion takes up 7.25 times as much."""
    concentration = DOSE_BQ * 2 ** (-3600 / HALF_LIFE_S) / (1000 * WEIGHT_KG)
    uptake_XYZ = np.ones(SHAPE)
    uptake_XYZ[5:9, 6:9, 2], uptake_XYZ[:3] = 7.25, 0
    slopes = [0.7, 0.31, 1.0, 0.55, 0.42]
    stored = np.rint(uptake_XYZ * concentration / slopes).astype(np.uint16)
    volume = read(make_pet(stored, lambda index: slopes[index]))
    assert volume.array_XYZ.dtype == np.float32
    np.testing.assert_allclose(volume.array_XYZ, uptake_XYZ, atol=0.5 / concentration)


def test_the_slope_of_each_image_applies() -> None:
    array = dicom_files.make_array(SHAPE)
    volume = read(make_pet(array, lambda index: 0.5 + index))
    np.testing.assert_allclose(volume.array_XYZ, array * (0.5 + np.arange(SHAPE[2])) * get_factor(), rtol=1e-6)


def test_the_dose_decays_until_the_series_begins() -> None:
    assert get_factor() == expect(3600)


def test_images_that_are_corrected_to_the_injection_need_no_decay() -> None:
    assert get_factor(DecayCorrection="ADMIN", SeriesTime=None) == expect(0)


@pytest.mark.parametrize(
    ("attributes", "decay_s"),
    [
        ({"RadiopharmaceuticalStartDateTime": "20240229094112"}, 1800),
        ({"RadiopharmaceuticalStartTime": "235112", "RadionuclideHalfLife": "20000"}, 10 * 3600 + 1200),
        ({"RadiopharmaceuticalStartDateTime": "20240227101112", "RadionuclideHalfLife": "282000"}, 2 * 86_400),
        ({"RadiopharmaceuticalStartDateTime": "20240229084112+0000", "TimezoneOffsetFromUTC": "+0100"}, 1800),
        ({"SeriesTime": "101112.500000"}, 3600.5),
    ],
    ids=["with its date", "before midnight", "days before", "in another time zone", "fraction of a second"],
)
def test_the_injection_is_found(attributes: dict[str, str], decay_s: float) -> None:
    assert get_factor(**attributes) == expect(decay_s, float(attributes.get("RadionuclideHalfLife", HALF_LIFE_S)))


def test_a_series_that_was_made_later_is_computed_back_from_its_images() -> None:
    """A position from 10:20:00 for 300 s, whose mean activity is reached at an offset from the scan's begin."""
    rate = np.log(2) / HALF_LIFE_S
    average_s = np.log(rate * 300 / (1 - np.exp(-rate * 300))) / rate
    assert 148 < average_s < 150, "activity falls, so that its mean is reached before the middle"
    begin_s = 8 * 60 + 48 + average_s
    factor = get_factor(SeriesTime="180000", AcquisitionTime="102000", ActualFrameDuration="300000",
                        FrameReferenceTime=f"{begin_s * 1000:.6f}")  # fmt: skip
    assert factor == pytest.approx(get_factor(), rel=1e-7)


def test_ge_states_the_scan_s_begin() -> None:
    (dataset, *_) = make_pet()
    dataset.SeriesTime = "180000"
    dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240229094112.00")
    assert find_factor(dataset, NAME) == expect(1800)


@pytest.mark.parametrize("kind", [None, "BW"])
def test_values_that_are_suv_stay(kind: str | None) -> None:
    attributes = {} if kind is None else {"SUVType": kind}
    assert get_factor(Units="GML", PatientWeight=None, **attributes) == 1


def test_philips_counts_have_a_factor() -> None:
    (dataset, *_) = make_pet()
    dataset.Units = "CNTS"
    dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.000254")
    assert find_factor(dataset, NAME) == 0.000254


@pytest.mark.parametrize(
    "keyword",
    ["Units", "DecayCorrection", "PatientWeight", "RadionuclideTotalDose", "RadionuclideHalfLife", "SeriesDate",
     "SeriesTime", "AcquisitionDate", "AcquisitionTime", "RadiopharmaceuticalStartTime"],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, ""])
def test_what_is_missing_is_named(keyword: str, value: str | None) -> None:
    with pytest.raises(BadVolume, match=f"SUVbw cannot be computed: it states no {keyword}"):
        get_factor(**{keyword: value})


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({"CorrectedImage": ["NORM", "DECY"]}, "CorrectedImage does not state ATTN;"),
        ({"CorrectedImage": None}, "CorrectedImage does not state ATTN and DECY"),
        ({"DecayCorrection": "NONE"}, "neither START nor ADMIN"),
        ({"Units": "CNTS"}, r"CNTS \(counts\), which can be converted only with Philips' private factor"),
        ({"Units": "PROPCPS"}, "neither BQML nor GML"),
        ({"Units": "GML", "SUVType": "LBM"}, "not by body weight"),
        ({"PatientWeight": "71500"}, "PatientWeight is not plausible"),
        ({"PatientWeight": "0"}, "PatientWeight is not plausible"),
        ({"RadionuclideTotalDose": "353.2"}, "RadionuclideTotalDose is not plausible"),
        ({"RadionuclideTotalDose": "nan"}, "RadionuclideTotalDose is not plausible"),
        ({"RadionuclideHalfLife": "0"}, "RadionuclideHalfLife is not plausible"),
        ({"RadiopharmaceuticalInformationSequence": []}, "does not describe one injection"),
        ({"RadionuclideHalfLife": "282000"}, "its injection may be days before the scan, and has no date"),
        ({"RadiopharmaceuticalStartDateTime": "20240301090000"}, "lies after the scan"),
        ({"RadiopharmaceuticalStartDateTime": "20200301090000"}, "or long before it"),
        ({"RadiopharmaceuticalStartDateTime": "20240229091112+0100"}, "states no TimezoneOffsetFromUTC"),
        ({"RadiopharmaceuticalStartDateTime": "20240229"}, "StartDateTime is not stated to the minute"),
        ({"RadiopharmaceuticalStartDateTime": "2024022909"}, "StartDateTime is not stated to the minute"),
        ({"RadiopharmaceuticalStartTime": "09"}, "RadiopharmaceuticalStartTime is not stated to the minute"),
        ({"SeriesTime": "10"}, "SeriesTime is not stated to the minute"),
        ({"AcquisitionDate": "202402"}, "AcquisitionDate is not stated to the day"),
        ({"SeriesTime": "180000", "FrameReferenceTime": None}, "states no FrameReferenceTime"),
        ({"SeriesTime": "180000", "ActualFrameDuration": "0"}, "ActualFrameDuration is not plausible"),
    ],
)
def test_what_does_not_give_suv_is_refused(attributes: dict[str, Any], cause: str) -> None:
    if "RadiopharmaceuticalInformationSequence" in attributes:
        (dataset, *_) = make_pet(change=lambda dataset: setattr(dataset, "RadiopharmaceuticalInformationSequence", []))
        with pytest.raises(BadVolume, match=cause):
            find_factor(dataset, NAME)
        return
    with pytest.raises(BadVolume, match=cause) as caught:
        get_factor(**attributes)
    assert caught.value.subject == NAME
    assert not [value for value in ("71500", "353.2", "20240", "1800") if value in str(caught.value)]


def test_images_with_different_weights_are_refused() -> None:
    datasets = make_pet()
    datasets[3].PatientWeight = "90"
    with pytest.raises(BadVolume, match="different weights, doses or times"):
        read(datasets)


def test_a_time_that_is_none_is_not_quoted() -> None:
    datasets = make_pet(change=lambda dataset: setattr(dataset, "SeriesTime", "101112"))
    for dataset in datasets:
        dataset["SeriesTime"]._value = "Zauberberg"
    with pytest.raises(BadVolume, match="its SeriesTime is not stated to the minute") as caught:
        read(datasets)
    assert "Zauberberg" not in str(caught.value)


def test_images_of_another_kind_are_refused() -> None:
    datasets = dicom_files.make_series(dicom_files.make_array(SHAPE))
    with pytest.raises(BadVolume, match="it states no Units"):
        read(datasets)
