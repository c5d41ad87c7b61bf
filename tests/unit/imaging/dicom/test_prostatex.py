"""A real examination beside dcm2niix: the same values at the same positions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import dcm2niix
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import DicomSource, open_source
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.volumes import Volume

EXAMINATION = Path(__file__).parents[5] / "shared" / "data" / "prostatex-dicom" / "ProstateX-0000.zip"
EXPECTED = {
    "series 3": [{"orientation": "sagittal", "slices": 19.0}],
    "series 4": [{"orientation": "transverse", "slices": 19.0, "SeriesDescription": "t2_tse_tra"}],
    "series 5": [{"orientation": "coronal", "slices": 15.0}],
    "series 6": [{"b_value": b_value, "diffusion": "trace", "slices": 19.0} for b_value in (50.0, 400.0, 800.0)],
    "series 7": [{"diffusion": "adc", "b_value": None, "slices": 19.0}],
    "series 8": [{"b_value": 1000.0, "diffusion": "trace", "slices": 19.0}],
    "series 9": [{"orientation": "transverse", "b_value": None, "slices": 16.0}],
}


@dataclass(frozen=True)
class Converted:
    """The examination, read both ways.

    Attributes:
        source: the zip.
        stacks: of each series by its label.
        by_dcm2niix: the volumes of each series.
    """

    source: DicomSource
    stacks: dict[str, tuple[Stack, ...]]
    by_dcm2niix: dict[str, list[Volume]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    if not EXAMINATION.is_file():
        pytest.skip("the real examination ../shared/data/prostatex-dicom is not on this machine")
    files, output = (tmp_path_factory.mktemp(name) for name in ("dicom", "nifti"))
    with ZipFile(EXAMINATION) as content:
        content.extractall(files)
    # Philips's precise values (-p y) would replace those that the scanner displays; other vendors have none.
    options = ["-p", "n", "-z", "n", "-b", "n", "-f", "%s"]
    subprocess.run([dcm2niix.bin, *options, "-o", output, files], check=True, capture_output=True)
    source = open_source(EXAMINATION)
    (study,) = scan(source).studies
    yield Converted(
        source,
        {series.label: series.stacks for series in study.series},
        {f"series {path.stem}": list(_load(path)) for path in output.glob("*.nii")},
    )
    source.close()


def _load(path: Path) -> Iterator[Volume]:
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32)
    for volume in np.moveaxis(values, 3, 0) if values.ndim == 4 else [values]:
        yield Volume(volume, image.affine)


def _gather(volume: Volume, positions_mm: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """Values of the voxels closest to positions (N, 3), and the largest distance from them in mm."""
    index = np.rint((np.c_[positions_mm, np.ones(len(positions_mm))] @ np.linalg.inv(volume.affine).T)[:, :3])
    centres_mm = (np.c_[index, np.ones(len(index))] @ volume.affine.T)[:, :3]
    distance_mm = float(np.linalg.norm(centres_mm - positions_mm, axis=1).max())
    return volume.array_XYZ[tuple(index.astype(int).T)], distance_mm


def test_the_series_are_divided_as_they_were_acquired(converted):
    assert converted.stacks.keys() == EXPECTED.keys()
    for label, volumes in EXPECTED.items():
        for stack, expected in zip(converted.stacks[label], volumes, strict=True):
            assert stack.problem == ""
            assert {name: stack.attributes.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("label", "place"), [(label, place) for label, volumes in EXPECTED.items() for place in range(len(volumes))]
)
def test_every_voxel_has_dcm2niixs_position_and_value(label, place, converted):
    stack, reference = converted.stacks[label][place], converted.by_dcm2niix[label][place]

    volume = read_stack(converted.source, stack, "case c1", "t2w")

    assert volume.array_XYZ.size == reference.array_XYZ.size
    index = np.argwhere(np.ones(volume.array_XYZ.shape, bool))
    positions_mm = (np.c_[index, np.ones(len(index))] @ volume.affine.T)[:, :3]
    values, distance_mm = _gather(reference, positions_mm)
    assert distance_mm < 1e-3
    np.testing.assert_allclose(volume.array_XYZ.reshape(-1), values, rtol=1e-5)
