"""Fixtures of the DICOM tests: datasets written to a folder, scanned and read as an import does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset
from tests.dicom_files import save

from vfmalign.imaging.dicom.examinations import Series, Study
from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import open_source
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.volumes import Volume

ScanSeries = Callable[[Sequence[Dataset] | Dataset], Series]
ReadVolume = Callable[[Stack], Volume]


@pytest.fixture
def scan_series(tmp_path: Path) -> ScanSeries:
    """Writes the datasets of one series and returns what a scan makes of them."""

    def scan_datasets(datasets: Sequence[Dataset] | Dataset) -> Series:
        save(datasets, tmp_path)
        (study,) = scan_folder(tmp_path)
        (series,) = study.series
        return series

    return scan_datasets


def scan_folder(folder: Path) -> tuple[Study, ...]:
    """The studies of a folder."""
    return scan(open_source(folder)).studies


@pytest.fixture
def read_volume(tmp_path: Path) -> ReadVolume:
    """Reads a stack of what `scan_series` wrote."""
    return lambda stack: read_stack(open_source(tmp_path), stack, "case c1", "t2w")
