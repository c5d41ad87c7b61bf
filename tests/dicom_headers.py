"""Headers of DICOM files for tests: what scanners of three vendors write before the pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid

_CLASSES = {
    ("MR", False): uid.MRImageStorage,
    ("CT", False): uid.CTImageStorage,
    ("PT", False): uid.PositronEmissionTomographyImageStorage,
    ("MR", True): uid.EnhancedMRImageStorage,
    ("CT", True): uid.EnhancedCTImageStorage,
}
_SCANNERS = {
    "siemens": ("SIEMENS", "Skyra"),
    "siemens-csa": ("SIEMENS", "TrioTim"),
    "ge": ("GE MEDICAL SYSTEMS", "DISCOVERY MR750"),
    "philips": ("Philips Medical Systems", "Ingenia"),
}


@dataclass(frozen=True)
class Examination:
    """One study of one patient, with values that identify them: none may appear in what an import writes or prints."""

    patient_name: str = "Zauberberg^Walpurga"
    patient_id: str = "PID-4711-0815"
    issuer: str = "SANATORIUM-BERGHOF"
    birth_date: str = "19240712"
    study_date: str = "20240229"
    accession_number: str = "ACC-90210"
    institution: str = "Klinik Davos-Platz"
    physician: str = "Behrens^Hofrat"
    character_set: str | Sequence[str] = "ISO_IR 192"
    study_uid: str = field(default_factory=uid.generate_uid)
    frame_of_reference_uid: str = field(default_factory=uid.generate_uid)

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that identifies the patient or the study."""
        names = self.patient_name.replace("=", "^").split("^") + self.physician.split("^")
        identifiers = (self.patient_id, self.issuer, self.birth_date, self.study_date, self.accession_number)
        return (*filter(None, names), *identifiers, self.institution, self.study_uid, self.frame_of_reference_uid)


def make_header(
    examination: Examination,
    vendor: str,
    modality: str,
    number: int,
    description: str,
    series_uid: str,
    *,
    enhanced: bool,
) -> Dataset:
    """A header without geometry and pixels."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = examination.character_set
    dataset.SOPClassUID, dataset.SOPInstanceUID = _CLASSES[modality, enhanced], uid.generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = examination.study_uid, series_uid
    dataset.FrameOfReferenceUID = examination.frame_of_reference_uid
    dataset.PatientName, dataset.PatientID = examination.patient_name, examination.patient_id
    dataset.IssuerOfPatientID, dataset.PatientBirthDate = examination.issuer, examination.birth_date
    dataset.PatientSex = "F"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = examination.study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = "101112"
    dataset.AccessionNumber, dataset.StudyID = examination.accession_number, "1"
    dataset.InstitutionName, dataset.ReferringPhysicianName = examination.institution, examination.physician
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, number, 1
    dataset.SeriesDescription, dataset.StudyDescription = description, "MR Prostata"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL", "ND"]
    dataset.Manufacturer, dataset.ManufacturerModelName = _SCANNERS[vendor]
    dataset.PatientPosition = "HFS"
    dataset.AcquisitionNumber = 1
    if modality == "MR":
        dataset.MagneticFieldStrength, dataset.RepetitionTime, dataset.EchoTime = "3", "4200", "101"
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "SE", "SK", "2D"
        dataset.FlipAngle = "160"
    elif modality == "CT":
        dataset.KVP, dataset.ConvolutionKernel = "120", "B30f"
        if not enhanced:
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    return dataset


def add_plane(position: Dataset, plane: Dataset, measures: Dataset, affine: NDArray[np.float64], height: float) -> None:
    """Writes a slice's geometry to the datasets that state its position, its orientation and its spacing."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    columns_mm, rows_mm, slices_mm = np.linalg.norm(lps[:3, :3], axis=0)
    position.ImagePositionPatient = _to_decimals((lps @ [0, 0, height, 1])[:3])
    plane.ImageOrientationPatient = _to_decimals([*(lps[:3, 0] / columns_mm), *(lps[:3, 1] / rows_mm)])
    measures.PixelSpacing = _to_decimals([rows_mm, columns_mm])
    measures.SliceThickness = measures.SpacingBetweenSlices = _to_decimals([slices_mm])[0]


def _to_decimals(values: Any) -> list[str]:
    """Decimal strings, which hold at most 16 characters."""
    return [f"{value + 0.0:.12f}"[:16] for value in np.round(values, 12)]


def add_standard_b_value(dataset: Dataset, b_value: float, directionality: str) -> None:
    """Writes the standard's attributes."""
    dataset.DiffusionBValue, dataset.DiffusionDirectionality = b_value, directionality


def add_private_b_value(dataset: Dataset, vendor: str, b_value: float, directionality: str) -> None:
    """Writes the attributes of a vendor."""
    _PRIVATE_B_VALUES[vendor](dataset, b_value, directionality)


def _add_siemens(dataset: Dataset, b_value: float, directionality: str) -> None:
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", str(int(b_value)))
    block.add_new(0x0D, "CS", directionality)


def _add_siemens_csa(dataset: Dataset, b_value: float, directionality: str) -> None:
    """The CSA2 header, as nibabel documents its structure."""
    values = {"B_value": ("IS", str(int(b_value))), "DiffusionDirectionality": ("CS", directionality)}
    data = b"SV10\4\3\2\1" + struct.pack("<II", len(values), 77)
    for name, (representation, text) in values.items():
        item = text.encode() + b"\0"
        data += struct.pack("<64si4siii", name.encode(), 1, representation.encode(), 0, 1, 77)
        data += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + b"\0" * (-len(item) % 4)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", data + b"\0" * (len(data) % 2))


def _add_ge(dataset: Dataset, b_value: float, directionality: str) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    kinds = {"ISOTROPIC": 15, "DIRECTIONAL": 16, "NONE": 14}
    block.add_new(0x30, "SS", kinds[directionality])
    block.add_new(0x39, "IS", [str(1_000_000_000 + int(b_value)), "8", "0", "0"])


def _add_philips(dataset: Dataset, b_value: float, directionality: str) -> None:
    block = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "FL", float(b_value))
    block.add_new(0x04, "CS", {"ISOTROPIC": "I", "DIRECTIONAL": "O"}.get(directionality, "N"))


_PRIVATE_B_VALUES: dict[str, Callable[[Dataset, float, str], None]] = {
    "siemens": _add_siemens,
    "siemens-csa": _add_siemens_csa,
    "ge": _add_ge,
    "philips": _add_philips,
}
