"""Studies of DICOM files, and how the tests read them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from tests.dicom_files import Examination, make_array, make_segmentation, make_series, save

from vfmalign.core.domain.declarations import DatasetDeclaration, LabelMap
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, ImportOptions, discover
from vfmalign.imaging.datasets.layouts.sources import DicomOptions
from vfmalign.imaging.datasets.preparation import PreparedDataset, prepare
from vfmalign.imaging.dicom.rules import Selections

DECLARATION = DatasetDeclaration(
    name="knee", modalities=("t2w",), labels=(LabelMap(name="gland", values={1: "gland"}, may_be_empty=True),)
)


SELECTIONS = Selections.model_validate(
    {
        "selections": [
            {"name": "t2w", "conditions": {"Modality": "MR", "SeriesDescription": "t2"}},
            {"name": "gland", "conditions": {"Modality": "SEG"}, "segments": {"1": {"label": "gland"}}},
        ]
    }
).selections


SHAPE = (40, 34, 5)


def make_options(*allowed: str, **options: object) -> ImportOptions:
    """Half of the patients train, and half test."""
    dicom, shares = DicomOptions(SELECTIONS, allowed), {"shares": {"train": 0.5, "test": 0.5}}
    return ImportOptions(declaration=DECLARATION, dicom=dicom, **shares | options)  # type: ignore[arg-type]


def write_study(folder: Path, number: int = 0, *, labelled: bool = True, **attributes: object) -> Examination:
    examination = Examination(patient_id=f"PID-{number}", study_uid=f"1.2.3.{number}")
    series = make_series(
        make_array(SHAPE, seed=number), examination=examination, number=4, description="t2", attributes=attributes
    )
    save(series, folder / f"{number}/t2")
    if labelled:
        mask = np.zeros(SHAPE, bool)
        mask[5:9, 4:7, 2] = True
        save(make_segmentation(series, {"gland": mask}), folder / f"{number}/seg")
    return examination


def run(path: Path, options: ImportOptions) -> tuple[DiscoveredDataset, PreparedDataset]:
    discovered = discover(path, "d", bytes(32), options)
    return discovered, prepare(discovered, "d", options, lambda stage, done, total: None)


def make_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, file.relative_to(folder))
    return path
