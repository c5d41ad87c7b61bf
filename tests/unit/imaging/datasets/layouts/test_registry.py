"""Five layouts of the same cases: the same dataset in the store, whatever the folders look like."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.dataset_imports import import_dataset
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    LAY_OUT,
    Files,
    LayOut,
    lay_out_csv,
    lay_out_decathlon,
    lay_out_nnunet_v1,
    lay_out_plain,
    put,
)

from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.storage.datasets import load_dataset, to_datalist
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.layouts.registry import detect_layout, read_source
from vfmalign.imaging.volumes import decode, load_case

SALT = bytes(32)


def import_brain(path: Path, store: ObjectStore, dataset_id: str, **options: object) -> DatasetManifest:
    chosen = ImportOptions(**options)  # type: ignore[arg-type]
    return import_dataset(path, store, dataset_id, chosen, mapping_path=path.parent / "mapping.csv", salt=SALT)


def summarise(dataset: DatasetManifest) -> dict[str, tuple[str, dict[str, str]]]:
    """Volumes by patient: their split and digests."""
    return {
        case.group: (split, {kind: ref.sha256 for kind, ref in case.volumes.items()})
        for split in SPLITS
        for case in dataset.split(split)
    }


def test_five_layouts_of_eight_cases_give_the_same_volumes_and_splits(
    tmp_path: Path, store: ObjectStore, brain_cases: Sequence[Files]
) -> None:
    imported = {}
    for layout, lay_out in LAY_OUT.items():
        path = lay_out(tmp_path / layout, brain_cases)
        assert detect_layout(path) == layout
        declaration = BRAIN if layout == "folders" else None
        dataset = import_brain(path, store, f"brain-{layout}", declaration=declaration)
        assert load_dataset(store, f"brain-{layout}", dataset.digest()) == dataset
        assert dataset.declaration.modalities == ("t1w",)
        assert dataset.declaration.label_names == ("hippocampus",)
        assert sorted(dataset.declaration.labels[0].values) == [1, 2]
        imported[layout] = summarise(dataset)
    assert len(imported["folders"]) == 8
    assert {split for split, _ in imported["folders"].values()} == {"train", "val", "test"}
    for layout, summary in imported.items():
        assert summary == imported["folders"], layout


def test_the_stored_volumes_are_those_of_the_files(
    tmp_path: Path, store: ObjectStore, brain_cases: Sequence[Files]
) -> None:
    monai = pytest.importorskip("monai.data.decathlon_datalist")
    dataset = import_brain(lay_out_decathlon(tmp_path / "d", brain_cases), store, "volumes")
    # In one type: a file may hold its values in a larger one than the store, which takes the smallest that holds them.
    images = {decode(case.image, "image", "t1w").array_XYZ.astype(np.float32).tobytes() for case in brain_cases}
    labels = {
        decode(case.label, "label", "hippocampus", is_label=True).array_XYZ.astype(np.uint8).tobytes()
        for case in brain_cases
    }
    for case in (*dataset.train, *dataset.val, *dataset.test):
        volumes = load_case(store, case, ("t1w",), ("hippocampus",))
        images.remove(volumes["t1w"].array_XYZ.astype(np.float32).tobytes())
        labels.discard(volumes["hippocampus"].array_XYZ.tobytes())
        for ref in case.volumes.values():
            assert b"SURNAME" not in gzip.decompress(store.get(ref.key))
    assert not images
    assert not labels
    path = put(tmp_path / "dataset.json", json.dumps(to_datalist(dataset)))
    items = monai.load_decathlon_datalist(str(path), data_list_key="training", base_dir="/bucket")
    assert [item["label"] for item in items] == [f"/bucket/{c.volumes['hippocampus'].key}" for c in dataset.train]


@pytest.mark.parametrize(
    ("lay_out", "layout"), [(lay_out_plain, "decathlon"), (lay_out_nnunet_v1, "nnunet")], ids=["plain", "nnunet v1"]
)
def test_variants_of_layouts_are_detected(
    tmp_path: Path, made_cases: Sequence[Files], lay_out: LayOut, layout: str
) -> None:
    name, source = read_source(lay_out(tmp_path / "d", made_cases))
    assert name == layout
    assert [case.problems for case in source.cases] == [()] * 4
    assert [case.patient for case in source.cases] == ["p0", "p1", "p2", "p3"]


def test_declarations_derive_from_the_data(tmp_path: Path, made_cases: Sequence[Files]) -> None:
    derived = {
        layout: read_source(LAY_OUT[layout](tmp_path / layout, made_cases))[1].declaration
        for layout in ("decathlon", "nnunet", "bids", "csv")
    }
    for layout in ("decathlon", "nnunet"):
        assert derived[layout].name == "hippocampus"
        assert derived[layout].labels[0].values == {1: "anterior", 2: "posterior"}
    for layout in ("bids", "csv"):
        assert derived[layout].labels[0].values == {1: "value_1", 2: "value_2"}
    plain = read_source(lay_out_plain(tmp_path / "plain", made_cases))[1].declaration
    assert (plain.modalities, plain.label_names) == (("image",), ("label",))


def test_several_layouts_at_once_are_refused_and_one_can_be_chosen(tmp_path: Path, made_cases: Sequence[Files]) -> None:
    lay_out_csv(tmp_path / "d", made_cases)
    lay_out_decathlon(tmp_path / "d", made_cases)
    with pytest.raises(BadDataset, match="several layouts match: csv, decathlon; choose one with --layout"):
        read_source(tmp_path / "d")
    assert read_source(tmp_path / "d", "csv")[0] == "csv"
    assert read_source(tmp_path / "d", "decathlon")[0] == "decathlon"
    with pytest.raises(BadOption, match="unknown layout; choose one of csv, nnunet, decathlon, bids, dicom, folders"):
        read_source(tmp_path / "d", "nrrd")


def test_a_folder_whose_name_ends_like_a_table_is_none(tmp_path: Path, made_cases: Sequence[Files]) -> None:
    path = LAY_OUT["decathlon"](tmp_path / "d", made_cases)
    (path / "old.csv").mkdir()
    assert read_source(path)[0] == "decathlon"


@pytest.mark.parametrize("layout", ["decathlon", "nnunet", "bids", "csv"])
def test_a_folder_of_another_layout_is_refused_as_a_chosen_one(
    tmp_path: Path, made_cases: Sequence[Files], layout: str
) -> None:
    lay_out_plain(tmp_path / "d", made_cases)
    (tmp_path / "d" / "images").rename(tmp_path / "d" / "scans")
    with pytest.raises(BadDataset):
        read_source(tmp_path / "d", layout)


def test_a_declared_brain_in_folders_is_found_by_the_ids(tmp_path: Path, made_cases: Sequence[Files]) -> None:
    path = LAY_OUT["folders"](tmp_path / "d", made_cases)
    with pytest.raises(BadDataset, match=r"files of hippocampus \(4\), t1w \(4\)"):
        read_source(path.parent / "d", "folders", BRAIN.model_copy(update={"modalities": ("flair",), "labels": ()}))
    assert all(set(case.files) == {"t1w", "hippocampus"} for case in read_source(path, None, BRAIN)[1].cases)
