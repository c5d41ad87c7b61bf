"""Layout of nnU-Net: `imagesTr/CASE_0000.nii.gz` (one file per channel), `labelsTr/CASE.nii.gz` and `dataset.json`.

Version 1 names the channels in `modality`. Version 2 names the channels in `channel_names`.
"""

from __future__ import annotations

import re
from pathlib import Path

from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.datasets.layouts.derivation import declare_from_json
from vfmalign.imaging.datasets.layouts.sources import (
    OUTSIDE,
    SUFFIXES,
    CaseSource,
    SourceDataset,
    VolumeFile,
    is_below,
    list_volumes,
    read_dataset_json,
)

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def matches(path: Path) -> bool:
    """Returns whether a folder has the nnU-Net layout.

    In this layout, `dataset.json` contains `channel_names`, or only names of images end in a channel number.
    """
    if not (path / "imagesTr").is_dir():
        return False
    content = read_dataset_json(path)
    if content is not None and "channel_names" in content:
        return True
    images, labels = list_volumes(path / "imagesTr"), list_volumes(path / "labelsTr")
    return any(f"{name}_0000" in images and name not in images for name in labels)


def read(path: Path, declaration: DatasetDeclaration | None) -> SourceDataset:
    """Finds the cases of `imagesTr` and `labelsTr`. Without a declaration, derives one from `dataset.json`.

    Raises:
        BadDataset: `dataset.json` is missing or names no channels, or the files are not NIfTI.
    """
    content = read_dataset_json(path)
    if content is None and declaration is None:
        raise BadDataset("there is no dataset.json", field="directory", remedy="add it, or give --declaration")
    ending = (content or {}).get("file_ending", SUFFIXES[-1])
    if ending not in SUFFIXES:
        raise BadDataset(
            "`file_ending` is not .nii or .nii.gz", subject="dataset.json", remedy="convert the images to NIfTI"
        )
    declaration = declaration or declare_from_json(content or {})
    if len(declaration.labels) > 1:
        raise BadDataset(
            f"this layout has one label map per case, but the declaration has {len(declaration.labels)}",
            field="declaration",
            remedy="declare one label map, or list the files in a CSV",
        )
    images, unnumbered = _group_channels(path)
    labels = list_volumes(path / "labelsTr")
    cases = [
        _to_case(path, name, images.get(name, {}), labels.get(name, []), declaration)
        for name in sorted({*images, *labels})
    ]
    cases += [
        CaseSource(name, name, {}, problems=("its image has no channel number such as _0000",)) for name in unnumbered
    ]
    left_out = sum(map(len, list_volumes(path / "imagesTs").values()))
    notes = (f"left out: {pluralise(left_out, 'image')} of imagesTs",) if left_out else ()
    return SourceDataset(declaration, sorted(cases, key=lambda case: case.name), notes)


def _group_channels(root: Path) -> tuple[dict[str, dict[int, list[Path]]], list[str]]:
    """Files by case and channel, and the stems that have no channel number."""
    cases: dict[str, dict[int, list[Path]]] = {}
    unnumbered: list[str] = []
    for stem, files in list_volumes(root / "imagesTr").items():
        if match := _CHANNEL.fullmatch(stem):
            cases.setdefault(match["case"], {}).setdefault(int(match["channel"]), []).extend(files)
        else:
            unnumbered.append(stem)
    return cases, unnumbered


def _to_case(
    root: Path, name: str, channels: dict[int, list[Path]], labels: list[Path], declaration: DatasetDeclaration
) -> CaseSource:
    files: dict[VolumeKind, VolumeFile] = {}
    problems: list[str] = []
    lacks: list[VolumeKind] = []
    for number, kind in enumerate(declaration.modalities):
        paths = channels.pop(number, [])
        if not paths:
            problems.append(f"no file of channel {number:04d} ({kind})")
            lacks.append(kind)
        elif len(paths) > 1:
            problems.append(f"two files are channel {number:04d} ({kind})")
        else:
            files[kind] = VolumeFile(paths[0])
    problems += [f"channel {number:04d} is not declared" for number in sorted(channels)]
    if declaration.labels:
        label = declaration.labels[0].name
        if len(labels) == 1:
            files[label] = VolumeFile(labels[0])
        else:
            problems.append(f"two files are the {label}" if labels else f"there is no {label}")
            lacks += [] if labels else [label]
    problems += [OUTSIDE for file in files.values() if not is_below(root, file.path)]
    return CaseSource(name, name, files, problems=tuple(problems), lacks=tuple(lacks))
