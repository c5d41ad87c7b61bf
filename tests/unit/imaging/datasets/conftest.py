"""Eight cases of a brain dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.imaging.datasets.brain_files import Files, make_case


@pytest.fixture(scope="session")
def brain_cases(shared_folder: Path) -> list[Files]:
    """Eight real cases where they are on this machine, else synthetic ones."""
    folder = shared_folder / "data" / "hippocampus"
    if not folder.is_dir():
        return [make_case(number) for number in range(8)]
    paths = sorted((folder / "images").glob("*.nii.gz"))[:8]
    return [
        Files(f"p{number}", path.read_bytes(), (folder / "labels" / path.name).read_bytes())
        for number, path in enumerate(paths)
    ]


@pytest.fixture(scope="session")
def made_cases() -> list[Files]:
    """Four small synthetic cases."""
    return [make_case(number) for number in range(4)]
