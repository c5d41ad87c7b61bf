"""Layout of the Medical Segmentation Decathlon: `dataset.json` with lists of images and labels.

Also reads two folders of files with equal names (`imagesTr` and `labelsTr`, or `images` and `labels`), with or without
`dataset.json`. A file with several modalities has a fourth axis. The order of the modalities along this axis is the
order of `modality` in `dataset.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.datasets.layouts import nnunet
from vfmalign.imaging.datasets.layouts.derivation import DECLARE, declare, declare_from_json, derive_label_maps
from vfmalign.imaging.datasets.layouts.sources import (
    OUTSIDE,
    CaseSource,
    SourceDataset,
    VolumeFile,
    get_stem,
    is_below,
    list_volumes,
    read_dataset_json,
    resolve_below,
)

_LISTS: dict[str, Split] = {"pretraining": "pretrain", "training": "train", "validation": "val", "test": "test"}
_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))


def matches(path: Path) -> bool:
    """Returns whether a folder has the Decathlon layout."""
    if nnunet.matches(path):
        return False
    content = read_dataset_json(path) if path.is_dir() else None
    return (content is not None and isinstance(content.get("training"), list)) or _find_folders(path) is not None


def read(path: Path, declaration: DatasetDeclaration | None) -> SourceDataset:
    """Finds the cases. Without a declaration, derives one from `dataset.json` or, if there is none, from the files.

    The lists `validation` and `test` are used as splits if their items have labels. Items without labels, such as the
    Decathlon's own test images, are left out.

    Raises:
        BadDataset: `dataset.json` or the folders do not have this layout.
    """
    content = read_dataset_json(path)
    if declaration is None and content is not None and ("modality" in content or "channel_names" in content):
        declaration = declare_from_json(content)
    modalities = declaration.modalities if declaration is not None else ("image",)
    label = _get_label(declaration)
    notes: tuple[str, ...] = ()
    if content is not None and isinstance(content.get("training"), list):
        cases, notes = _read_lists(path, content, modalities, label)
    else:
        cases = _pair_folders(path, modalities, label)
    cases = require_labels(cases, label)
    if declaration is None:
        derived = derive_label_maps(cases, [label])
        declaration = declare("dataset", modalities, derived.maps)
        notes += derived.notes
    return SourceDataset(declaration, sorted(cases, key=lambda case: case.name), notes)


def require_labels(cases: Sequence[CaseSource], label: VolumeKind) -> list[CaseSource]:
    """If at least one case has a label map, reports a problem for every case without a label map."""
    if not any(label in case.files for case in cases):
        return list(cases)
    missing = f"there is no {label}, which other cases have"
    return [
        case if label in case.files or case.problems else replace(case, problems=(missing,), lacks=(label,))
        for case in cases
    ]


def _get_label(declaration: DatasetDeclaration | None) -> VolumeKind:
    if declaration is None or not declaration.labels:
        return "label"
    if len(declaration.labels) > 1:
        raise BadDataset(
            f"this layout has one label map per case, but the declaration has {len(declaration.labels)}",
            field="declaration",
            remedy="declare one label map, or list the files in a CSV",
        )
    return declaration.labels[0].name


def _find_folders(root: Path) -> tuple[Path, Path] | None:
    """Returns the folders of images and labels. `images` without `labels` does not count: it may belong to a case."""
    pairs = [
        (root / images, root / labels)
        for images, labels in _FOLDERS
        if list_volumes(root / images) and (images == "imagesTr" or (root / labels).is_dir())
    ]
    return pairs[0] if len(pairs) == 1 else None


def _pair_folders(root: Path, modalities: Sequence[VolumeKind], label: VolumeKind) -> list[CaseSource]:
    folders = _find_folders(root)
    if folders is None:
        raise BadDataset(
            "there is neither a list `training` in dataset.json nor one folder `imagesTr` or `images`",
            field="directory",
            remedy="check the folder, or choose another layout with --layout",
        )
    images, labels = (list_volumes(folder) for folder in folders)
    cases = []
    for name in sorted({*images, *labels}):
        problems = [f"two files are the {what}" for what, files in (("image", images), (label, labels))
                    if len(files.get(name, ())) > 1]  # fmt: skip
        if name not in images:
            problems.append(f"the {label} has no image of the same name")
        paths = [*images.get(name, ()), *labels.get(name, ())]
        problems += [OUTSIDE for path in paths if not is_below(root, path)]
        files: dict[VolumeKind, VolumeFile] = {}
        if name in images:
            files |= _split_channels(images[name][0], modalities)
        if name in labels:
            files[label] = VolumeFile(labels[name][0])
        cases.append(CaseSource(name, name, files, problems=tuple(problems)))
    return cases


def _read_lists(
    root: Path, content: Mapping[str, Any], modalities: Sequence[VolumeKind], label: VolumeKind
) -> tuple[list[CaseSource], tuple[str, ...]]:
    """Cases in the lists of `dataset.json`, and notes on the items that were left out."""
    cases: list[CaseSource] = []
    unlabelled = 0
    for list_name, split in _LISTS.items():
        items = content.get(list_name, [])
        if not isinstance(items, list):
            raise BadDataset(f"{list_name} is not a list", subject="dataset.json", remedy="correct the file")
        unlabelled += sum(isinstance(item, str) for item in items)
        cases += [
            replace(_read_item(root, item, modalities, label), split=split, place=f"item {number} of {list_name}")
            for number, item in enumerate(items, start=1)
            if not isinstance(item, str)
        ]
    if {case.split for case in cases} == {"train"}:  # one list states no splits
        cases = [replace(case, split=None) for case in cases]
    counts = Counter(case.name for case in cases)
    repeated = "another item has the same file name"
    cases = [replace(case, problems=(*case.problems, repeated)) if counts[case.name] > 1 else case for case in cases]
    note = f"left out: {pluralise(unlabelled, 'image')} of dataset.json without a label map"
    return cases, (note,) if unlabelled else ()


def _read_item(root: Path, item: Any, modalities: Sequence[VolumeKind], label: VolumeKind) -> CaseSource:
    if not isinstance(item, dict):
        return CaseSource("", "", {}, problems=("it is not an object with `image` and `label`",))
    image, labels = item.get("image"), item.get("label")
    images = image if isinstance(image, list) else [image]
    texts = [*images, *([labels] if labels is not None else [])]
    if not all(isinstance(text, str) and text for text in texts) or images == []:
        return CaseSource("", "", {}, problems=("`image` or `label` is not a path",))
    name = get_stem(texts[0])
    roles = ["image" if len(images) == 1 else f"image {n}" for n in range(1, len(images) + 1)] + ["label"]
    paths = [resolve_below(root, text) for text in texts]
    present = [path for path in paths if path is not None]
    if len(present) < len(paths):
        return CaseSource(name, name, {}, problems=(OUTSIDE,))
    is_missing = {role: not path.is_file() for role, path in zip(roles, present, strict=False)}  # some have no label
    if missing := [f"its {role} does not exist" for role in is_missing if is_missing[role]]:
        return CaseSource(name, name, {}, problems=tuple(missing))
    files: dict[VolumeKind, VolumeFile] = {}
    if labels is not None:
        files[label] = VolumeFile(present.pop())
    if len(present) == 1:
        return CaseSource(name, name, files | _split_channels(present[0], modalities))
    if len(present) != len(modalities):
        count = f"it has {len(present)} images, but {len(modalities)} modalities are declared; {DECLARE}"
        return CaseSource(name, name, files, problems=(count,))
    images_by_kind = {kind: VolumeFile(path) for kind, path in zip(modalities, present, strict=True)}
    return CaseSource(name, name, images_by_kind | files)


def _split_channels(path: Path, modalities: Sequence[VolumeKind]) -> dict[VolumeKind, VolumeFile]:
    """Maps each modality to its file. Several modalities share one file and are stored along its fourth axis."""
    return dict.fromkeys(modalities, VolumeFile(path, tuple(modalities) if len(modalities) > 1 else ()))
