"""Thirty cases whose organs a field of view cuts by 0 to 60 %, with lesions inside, across and outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.volumes import Volume

INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=(16, 32, 32))
"""The centre of the cases' 48 x 40 x 16 voxels of 1 mm: columns 8 to 39, rows 4 to 35 and every slice."""
SHAPE_XYZ = (48, 40, 16)
EDGE = 40
"""First column beyond the field of view."""
LESIONS = {"inside": 32, "across": 38, "outside": 42}
"""First of four columns of the lesion."""
LESION_INSIDE = {"inside": 1.0, "across": 0.5, "outside": 0.0}


@dataclass(frozen=True)
class CutCase:
    """A case, and what is known of it.

    Attributes:
        number: from 0.
        gland: share of the gland in the field of view.
        lesion: a key of `LESIONS`.
        volumes: images and label maps.
    """

    number: int
    gland: float
    lesion: str
    volumes: dict[str, Volume]

    @property
    def inside(self) -> dict[str, float]:
        """Share of each structure in the field of view."""
        return {"gland": self.gland, "lesion": LESION_INSIDE[self.lesion]}

    def mask(self, *kinds: str) -> np.ndarray:
        """Voxels (X, Y, Z) of one of the label maps."""
        return np.logical_or.reduce([self.volumes[kind].array_XYZ > 0 for kind in kinds])


def make_cut_case(number: int) -> CutCase:
    """Makes one case: the gland loses 0 to 6 of its 10 columns."""
    columns, lesion = number % 7, list(LESIONS)[number % 3]
    draw = np.random.default_rng(number)
    gland, lesions = np.zeros(SHAPE_XYZ, np.float32), np.zeros(SHAPE_XYZ, np.float32)
    start = EDGE - 10 + columns
    gland[start : start + 10, 12:20, 4:10] = 1
    lesions[LESIONS[lesion] : LESIONS[lesion] + 4, 14:18, 6:8] = (
        3 if number % 4 else 1
    )  # of grade 1, it is not significant
    volumes = {"gland": gland, "lesions": lesions}
    for kind in INPUT.modalities:
        noise = draw.normal(100, 10, gland.shape)
        volumes[kind] = (noise + 60 * gland + 40 * (lesions > 0)).round().astype(np.float32)
    return CutCase(
        number, 1 - columns / 10, lesion, {kind: Volume(array, np.eye(4)) for kind, array in volumes.items()}
    )


CASES = tuple(make_cut_case(number) for number in range(30))


FILES = {"t2w": "t2", "dwi": "dwi", "adc": "adc", "gland": "mask", "lesions": "lesions"}


def write_folders(folder: Path) -> Path:
    """Writes the cases as folders of NIfTI files, in the order of their numbers, and returns the folder."""
    for case in CASES:
        directory = folder / f"SURNAME-{case.number:02d}"
        directory.mkdir(parents=True)
        for kind, volume in case.volumes.items():
            nib.save(nib.Nifti1Image(volume.array_XYZ, volume.affine), directory / f"{FILES[kind]}.nii.gz")
    return folder
