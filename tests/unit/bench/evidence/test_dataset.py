"""So many patients in each split, and a class that derives from masks: above the median of the training cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.evidence.dataset import add_volume_class, digest_files, select_cases, split_group_counts
from tests.dataset_imports import import_discovered
from tests.unit.imaging.conftest import MemoryStore
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    Files,
    lay_out_decathlon,
    lay_out_plain,
    make_case,
    to_nifti,
)

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, ImportOptions, discover
from vfmalign.imaging.datasets.layouts.registry import read_source

NAME = "derived_hippocampus_volume_high"
SPLITS: dict[str, Any] = {"p0": "train", "p1": "train", "p2": "train", "p3": "val", "p4": "test", "p5": "test"}
VOXELS = (40, 80, 120, 180, 100, 60)
OPTIONS = ImportOptions(declaration=BRAIN)


def make_volume(number: int, voxels: int, spacing_mm: float = 1.0) -> Files:
    """A case of this many labelled voxels, half of them of either structure."""
    label = np.zeros((16, 18, 14), np.uint8)
    label.reshape(-1)[500 : 500 + voxels] = 2
    label.reshape(-1)[500 : 500 + voxels // 2] = 1
    image = (np.random.default_rng(number).normal(100, 10, label.shape) + 40 * label).astype(np.int16)
    return Files(f"p{number}", *(to_nifti(array, spacing_mm=spacing_mm) for array in (image, label)))


@pytest.fixture
def discovered(tmp_path: Path) -> DiscoveredDataset:
    lay_out_plain(tmp_path, [make_volume(number, voxels) for number, voxels in enumerate(VOXELS)])
    return discover(tmp_path, "brain", bytes(32), OPTIONS)


def test_a_case_is_positive_above_the_median_of_the_training_cases(
    discovered: DiscoveredDataset, tmp_path: Path
) -> None:
    derived = add_volume_class(discovered, BRAIN.labels[0], SPLITS)
    assert [case.source.classes[NAME] for case in derived.cases] == [False, False, True, True, True, False]
    options = ImportOptions(splits=SPLITS)
    dataset = import_discovered(derived, MemoryStore(), "brain", options, mapping_path=tmp_path / "mapping.csv")
    assert [entry.name for entry in dataset.declaration.classes] == [NAME]
    assert [case.classes[NAME] for case in dataset.val] == [True]
    assert sorted(case.classes[NAME] for case in dataset.train) == [False, False, True]


def test_test_cases_do_not_move_the_threshold(discovered: DiscoveredDataset) -> None:
    others = {name: "test" if name == "p2" else split for name, split in SPLITS.items()}
    derived = add_volume_class(discovered, BRAIN.labels[0], others)
    assert [case.source.classes[NAME] for case in derived.cases] == [False, True, True, True, True, False]


def test_volumes_are_compared_in_cubic_millimetres(tmp_path: Path) -> None:
    cases = [make_volume(number, 100, spacing) for number, spacing in enumerate((1.0, 1.1, 0.9))]
    lay_out_plain(tmp_path, cases)
    discovered = discover(tmp_path, "brain", bytes(32), OPTIONS)
    derived = add_volume_class(discovered, BRAIN.labels[0], {"p0": "train", "p1": "train", "p2": "train"})
    assert [case.source.classes[NAME] for case in derived.cases] == [False, True, False]


def test_an_empty_label_map_is_refused(tmp_path: Path) -> None:
    image, empty = make_volume(0, 100), to_nifti(np.zeros((16, 18, 14), np.uint8))
    lay_out_plain(tmp_path, [Files("p0", image.image, empty)])
    with pytest.raises(BadDataset, match="the label map is empty"):
        add_volume_class(discover(tmp_path, "brain", bytes(32), OPTIONS), BRAIN.labels[0], {"p0": "train"})


def test_the_digest_depends_on_the_files_and_not_on_their_layout(tmp_path: Path) -> None:
    made_cases = [make_case(number) for number in range(4)]

    def digest(root: Path) -> bytes:
        return digest_files(read_source(root, None, BRAIN)[1])

    plain = digest(lay_out_plain(tmp_path / "a", made_cases))
    assert plain == digest(lay_out_decathlon(tmp_path / "b", made_cases))
    assert plain != digest(lay_out_plain(tmp_path / "c", made_cases[:3]))


def test_a_selection_has_the_cases_of_its_patients(discovered: DiscoveredDataset) -> None:
    chosen = select_cases(discovered, {discovered.cases[1].group, discovered.cases[4].group})
    assert [case.source.name for case in chosen.cases] == ["p1", "p4"]
    assert [case.name for case in chosen.source.cases] == ["p1", "p4"]


def test_counts_are_exact_and_the_other_patients_are_in_no_split() -> None:
    groups = [f"g-{i}" for i in range(20)]
    counts: dict[Split, int] = {"test": 6, "pretrain": 8, "train": 3}
    assigned = split_group_counts(groups, counts, seed=1)
    assert {name: list(assigned.values()).count(name) for name in counts} == counts
    assert len(assigned) == 17
    assert assigned == split_group_counts(groups[::-1], counts, seed=1) != split_group_counts(groups, counts, seed=2)
    with pytest.raises(BadDataset, match="20 patients cannot fill splits of 21"):
        split_group_counts(groups, counts | {"val": 4}, seed=1)
