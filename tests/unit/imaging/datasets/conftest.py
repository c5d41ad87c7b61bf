"""Eight cases of a brain dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.imaging.datasets.brain_files import Files, load_cases, make_case


@pytest.fixture(scope="session")
def brain_cases(shared_folder: Path) -> list[Files]:
    """Eight cases, real ones where they are on this machine."""
    return load_cases(shared_folder)


@pytest.fixture(scope="session")
def made_cases() -> list[Files]:
    """Four small synthetic cases."""
    return [make_case(number) for number in range(4)]
