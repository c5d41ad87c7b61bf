"""A class that derives from masks: above the median of the training cases, and named as derived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.imaging.datasets.brain_files import BRAIN, Files, lay_out_decathlon, lay_out_plain, to_nifti

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.derived_class import add_share_class, digest_files
from vfmalign.imaging.datasets.importer import import_discovered
from vfmalign.imaging.datasets.layouts import read_source
from vfmalign.imaging.datasets.preparation import DiscoveredDataset, ImportOptions, discover, select_cases

NAME = "derived_anterior_share_high"
SPLITS: dict[str, Any] = {"p0": "train", "p1": "train", "p2": "train", "p3": "val", "p4": "test", "p5": "test"}
SHARES = (0.2, 0.4, 0.6, 0.9, 0.5, 0.3)
OPTIONS = ImportOptions(declaration=BRAIN)


def make_share(number: int, share: float) -> Files:
    """A case whose anterior part is this share of 200 labelled voxels."""
    label = np.zeros((16, 18, 14), np.uint8)
    label[4:14, 5:15, 4:6] = 2
    label.reshape(-1)[np.flatnonzero(label)[: round(200 * share)]] = 1
    image = (np.random.default_rng(number).normal(100, 10, label.shape) + 40 * label).astype(np.int16)
    return Files(f"p{number}", to_nifti(image), to_nifti(label))


@pytest.fixture
def discovered(tmp_path: Path) -> DiscoveredDataset:
    lay_out_plain(tmp_path, [make_share(number, share) for number, share in enumerate(SHARES)])
    return discover(tmp_path, "brain", bytes(32), OPTIONS)


def test_a_case_is_positive_above_the_median_of_the_training_cases(
    discovered: DiscoveredDataset, memory_store: Any, tmp_path: Path
) -> None:
    derived = add_share_class(discovered, BRAIN.labels[0], "anterior", SPLITS)
    assert [case.source.classes[NAME] for case in derived.cases] == [False, False, True, True, True, False]
    options = ImportOptions(splits=SPLITS)
    dataset = import_discovered(derived, memory_store, "brain", options, mapping_path=tmp_path / "mapping.csv")
    assert [entry.name for entry in dataset.declaration.classes] == [NAME]
    assert [case.classes[NAME] for case in dataset.val] == [True]
    assert sorted(case.classes[NAME] for case in dataset.train) == [False, False, True]


def test_test_cases_do_not_move_the_threshold(discovered: DiscoveredDataset) -> None:
    others = {name: "test" if name == "p2" else split for name, split in SPLITS.items()}
    derived = add_share_class(discovered, BRAIN.labels[0], "anterior", others)
    assert [case.source.classes[NAME] for case in derived.cases] == [False, True, True, True, True, False]


def test_an_empty_label_map_is_refused(tmp_path: Path) -> None:
    image, empty = make_share(0, 0.5), to_nifti(np.zeros((16, 18, 14), np.uint8))
    lay_out_plain(tmp_path, [Files("p0", image.image, empty)])
    with pytest.raises(BadDataset, match="the label map is empty"):
        add_share_class(discover(tmp_path, "brain", bytes(32), OPTIONS), BRAIN.labels[0], "anterior", {"p0": "train"})


def test_the_digest_depends_on_the_files_and_not_on_their_layout(made_cases: list[Files], tmp_path: Path) -> None:
    def digest(root: Path) -> bytes:
        return digest_files(read_source(root, None, BRAIN)[1])

    plain = digest(lay_out_plain(tmp_path / "a", made_cases))
    assert plain == digest(lay_out_decathlon(tmp_path / "b", made_cases))
    assert plain != digest(lay_out_plain(tmp_path / "c", made_cases[:3]))


def test_a_selection_has_the_cases_of_its_patients(discovered: DiscoveredDataset) -> None:
    chosen = select_cases(discovered, {discovered.cases[1].group, discovered.cases[4].group})
    assert [case.source.name for case in chosen.cases] == ["p1", "p4"]
    assert [case.name for case in chosen.source.cases] == ["p1", "p4"]
