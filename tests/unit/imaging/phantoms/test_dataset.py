"""Datasets of phantoms are reproducible, idempotent, and never overwrite another dataset."""

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadDataset, Conflict
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.imaging.phantoms.dataset import PhantomDataset, synthesise_dataset
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack
from vfmalign.imaging.volumes import load_case

SMALL = PhantomSpec(
    t2w=SliceStack((32, 32, 8), (3.0, 3.0, 6.0)),
    dwi=SliceStack((24, 24, 8), (4.0, 4.0, 6.0)),
    adc=SliceStack((24, 24, 8), (4.0, 4.0, 6.0)),
)
COUNTS = {"pretrain": 2, "train": 2, "val": 1, "test": 1}


def test_splits_are_disjoint_and_have_labels(memory_store):
    dataset = synthesise_dataset(memory_store, "demo", 7, COUNTS, spec=SMALL)
    assert {name: len(dataset.split(name)) for name in COUNTS} == COUNTS
    cases = [case for name in COUNTS for case in dataset.split(name)]
    assert len({case.id for case in cases}) == len({case.group for case in cases}) == 6
    assert len({case.volumes["t2w"].sha256 for case in cases}) == 6
    assert dataset.held_out
    assert dataset.phantom
    assert load_dataset(memory_store, "demo") == dataset
    # Of the state before declarations: models that were trained on phantoms refer to them by digest.
    assert dataset.digest() == "1101729fc39108a4363d42eb55e8ff1d793adc86bf65f855b9716832af57ed00"
    assert sorted(load_case(memory_store, cases[0], tuple(cases[0].volumes))) == [
        "adc",
        "dwi",
        "gland",
        "lesions",
        "t2w",
    ]


def test_repeating_a_synthesis_writes_nothing(memory_store):
    first = synthesise_dataset(memory_store, "demo", 7, COUNTS, spec=SMALL)
    stored = dict(memory_store.objects)
    memory_store.put = None
    assert synthesise_dataset(memory_store, "demo", 7, COUNTS, spec=SMALL) == first
    with pytest.raises(Conflict, match="choose another dataset id"):
        synthesise_dataset(memory_store, "demo", 8, COUNTS, spec=SMALL)
    assert memory_store.objects == stored


def test_the_size_of_one_split_does_not_change_the_others(memory_store):
    small = synthesise_dataset(memory_store, "a", 7, COUNTS, spec=SMALL)
    large = synthesise_dataset(memory_store, "b", 7, {**COUNTS, "pretrain": 3}, spec=SMALL)
    assert [c.volumes["t2w"].sha256 for c in small.test] == [c.volumes["t2w"].sha256 for c in large.test]


@pytest.mark.parametrize("counts", [{}, {"train": 0}, {"train": -1, "test": 3}])
def test_rejects_invalid_counts(memory_store, counts):
    with pytest.raises(BadDataset, match="at least one in all"):
        synthesise_dataset(memory_store, "demo", 0, counts)


def test_a_dataset_is_written_to_and_read_from_s3(store):
    """Over S3: written, read back verified, and the same again without a conflict."""
    dataset = synthesise_dataset(store, "demo", 7, {"train": 1}, spec=SMALL)
    assert synthesise_dataset(store, "demo", 7, {"train": 1}, spec=SMALL) == dataset
    assert sorted(load_case(store, dataset.train[0], ("t2w", "gland"))) == ["gland", "t2w"]
    assert len(list(store.list("volumes/demo/"))) == 5


def test_graded_phantoms_state_their_highest_grade_and_the_volume_of_their_lesions(memory_store):
    phantoms = PhantomDataset("demo", 7, {"train": 6}, SMALL, graded=True)
    for volumes in phantoms.generate():
        for key, data in volumes.items():
            memory_store.put(key, data)
    for case in phantoms.to_manifest().train:
        lesions = load_case(memory_store, case, ("lesions",))["lesions"].array_XYZ
        assert case.grades == {"pirads": int(lesions.max())}
        assert case.numbers["volume"] == pytest.approx(np.count_nonzero(lesions) * 3.0 * 3.0 * 6.0 / 1000.0)
    assert len({case.grades["pirads"] for case in phantoms.to_manifest().train}) > 1
