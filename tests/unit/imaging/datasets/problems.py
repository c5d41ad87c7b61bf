"""What cannot be imported of four cases whose files carry a patient's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.imaging.datasets.brain_files import BRAIN, Files, make_case

from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.imaging.datasets.discovery import ImportOptions, discover
from vfmalign.imaging.datasets.preparation import PreparedDataset, prepare

NAME = "surname"
CASES = [Files(f"{NAME}{n}", case.image, case.label) for n, case in enumerate(map(make_case, range(4)))]
TWO_CHANNELS = DatasetDeclaration.model_validate(
    BRAIN.model_dump() | {"modalities": ["t1w", "flair"], "labels": BRAIN.model_dump()["labels"]}
)


def run(path: Path, **options: Any) -> PreparedDataset:
    chosen = ImportOptions(**options)
    discovered = discover(path, "d", bytes(32), chosen)
    return prepare(discovered, "d", chosen, lambda stage, done, total: None)


def list_problems(path: Path, **options: Any) -> str:
    """All problems, or the error that ends the preparation; they name nobody."""
    try:
        text = "\n".join(map(str, run(path, **options).problems))
    except VfmalignError as error:
        text = str(error)
    assert NAME not in text.lower()
    assert str(path) not in text
    return text
