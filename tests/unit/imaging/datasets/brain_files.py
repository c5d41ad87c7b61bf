"""Files of a brain dataset, and functions that lay them out on disk."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from vfmalign.core.domain.declarations import DatasetDeclaration

BRAIN = DatasetDeclaration.model_validate(
    {
        "name": "brain",
        "modalities": ["t1w"],
        "labels": [{"name": "hippocampus", "values": {"1": "anterior", "2": "posterior"}}],
    }
)
DATASET_JSON = {
    "name": "Hippocampus",
    "modality": {"0": "T1w"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
}


@dataclass(frozen=True)
class Files:
    """The NIfTI files of one case, as bytes."""

    name: str
    image: bytes
    label: bytes


def to_nifti(array: Any, *, spacing_mm: float = 1.0, moved_mm: float = 0.0) -> bytes:
    """A gzip-compressed NIfTI file of cubic voxels, with a patient's name in its header."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[0, 3] = moved_mm
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"SURNAME^GIVEN"
    return gzip.compress(image.to_bytes(), mtime=0)


def make_case(number: int) -> Files:
    """A small synthetic case: smooth noise with two structures."""
    random = np.random.default_rng(number)
    label = np.zeros((16, 18, 14), np.uint8)
    label[4:8, 5:12, 4:9] = 1
    label[8:12, 5:12, 4:9] = 2
    image = (random.normal(100, 10, label.shape) + 40 * label).astype(np.int16)
    return Files(f"p{number}", to_nifti(image), to_nifti(label))


def load_cases(shared_folder: Path) -> list[Files]:
    """Eight real cases where they are on this machine, else synthetic ones."""
    folder = shared_folder / "data" / "hippocampus"
    if not folder.is_dir():
        return [make_case(number) for number in range(8)]
    paths = sorted((folder / "images").glob("*.nii.gz"))[:8]
    return [
        Files(f"p{number}", path.read_bytes(), (folder / "labels" / path.name).read_bytes())
        for number, path in enumerate(paths)
    ]


def put(path: Path, content: bytes | str | dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lay_out_folders(root: Path, cases: Sequence[Files]) -> Path:
    for case in cases:
        put(root / case.name / "t1w.nii.gz", case.image)
        put(root / case.name / "hippocampus.nii.gz", case.label)
    return root


def lay_out_decathlon(root: Path, cases: Sequence[Files]) -> Path:
    items = []
    for case in cases:
        image = put(root / "imagesTr" / f"{case.name}.nii.gz", case.image)
        label = put(root / "labelsTr" / f"{case.name}.nii.gz", case.label)
        items.append({"image": f"./imagesTr/{image.name}", "label": f"./labelsTr/{label.name}"})
    put(root / "dataset.json", DATASET_JSON | {"training": items, "test": ["./imagesTs/a.nii.gz"]})
    return root


def lay_out_plain(root: Path, cases: Sequence[Files]) -> Path:
    for case in cases:
        put(root / "images" / f"{case.name}.nii.gz", case.image)
        put(root / "labels" / f"{case.name}.nii.gz", case.label)
    return root


def lay_out_nnunet(root: Path, cases: Sequence[Files]) -> Path:
    for case in cases:
        put(root / "imagesTr" / f"{case.name}_0000.nii.gz", case.image)
        put(root / "labelsTr" / f"{case.name}.nii.gz", case.label)
    content = {
        "name": "Hippocampus",
        "channel_names": {"0": "T1w"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "file_ending": ".nii.gz",
        "numTraining": len(cases),
    }
    put(root / "dataset.json", content)
    return root


def lay_out_nnunet_v1(root: Path, cases: Sequence[Files]) -> Path:
    lay_out_nnunet(root, cases)
    items = [{"image": f"./imagesTr/{c.name}.nii.gz", "label": f"./labelsTr/{c.name}.nii.gz"} for c in cases]
    put(root / "dataset.json", DATASET_JSON | {"training": items, "test": []})
    return root


def lay_out_bids(root: Path, cases: Sequence[Files]) -> Path:
    for case in cases:
        sub = f"sub-{case.name}"
        put(root / sub / "anat" / f"{sub}_T1w.nii.gz", case.image)
        mask = f"{sub}_space-T1w_label-hippocampus_dseg.nii.gz"
        put(root / "derivatives" / "manual" / sub / "anat" / mask, case.label)
    put(root / "participants.tsv", "participant_id\tage\n")
    return root


def write_table(path: Path, rows: Sequence[dict[str, str]], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def list_rows(cases: Sequence[Files]) -> list[dict[str, str]]:
    return [
        {
            "case": f"c{i}",
            "group": case.name,
            "image:t1w": f"files/{i}.nii.gz",
            "label:hippocampus": f"files/{i}_l.nii.gz",
        }
        for i, case in enumerate(cases)
    ]


def lay_out_csv(root: Path, cases: Sequence[Files]) -> Path:
    for number, case in enumerate(cases):
        put(root / "files" / f"{number}.nii.gz", case.image)
        put(root / "files" / f"{number}_l.nii.gz", case.label)
    write_table(root / "cases.csv", list_rows(cases))
    return root


LayOut = Callable[[Path, Sequence[Files]], Path]
LAY_OUT: dict[str, LayOut] = {
    "folders": lay_out_folders,
    "decathlon": lay_out_decathlon,
    "nnunet": lay_out_nnunet,
    "bids": lay_out_bids,
    "csv": lay_out_csv,
}
