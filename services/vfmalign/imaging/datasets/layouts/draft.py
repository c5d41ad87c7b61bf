"""Draft of a declaration for undescribed data, based on words that several file names contain.

A word in a file name may be a patient's name. A word is used only if it occurs in the files of at least two patients
and of half of all patients. The word must not occur in any folder name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from vfmalign.core.domain.declarations import DatasetDeclaration, LabelMap, VolumeKind
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.layouts.derivation import (
    MAX_DERIVED_VALUES,
    DerivedLabelMaps,
    declare,
    derive_label_maps,
    read_values,
    to_volume_id,
)
from vfmalign.imaging.datasets.layouts.sources import CaseSource, VolumeFile, get_stem

KindsByCase = Mapping[str, Mapping[VolumeKind, Sequence[Path]]]
"""Files of each case, by possible name in a declaration."""


class UndescribedData(BadDataset):
    """Data that no declaration describes.

    Attributes:
        counts: maps each possible name for a declaration to the number of cases that have such a file.
        draft: a declaration for the user to correct; None if no image occurs in every case that has files.
        notes: possible mistakes in the draft, without patients' names.
    """

    def __init__(
        self,
        message: str,
        counts: Mapping[VolumeKind, int],
        draft: DatasetDeclaration | None,
        notes: Sequence[str] = (),
    ) -> None:
        listed = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
        remedy = "describe the data with --declaration, or choose another layout with --layout"
        if draft is not None:
            remedy = (
                "a draft of a declaration was written to standard output: save it, correct its names, and import with "
                "--declaration FILE"
            )
        found = f"the cases have files of {listed}" if listed else "the file names share no word"
        super().__init__(f"{message}; {found}", field="directory", remedy=remedy)
        self.counts = dict(counts)
        self.draft = draft
        self.notes = tuple(notes)


def name_files(files_by_case: Mapping[str, Sequence[Path]]) -> dict[str, dict[VolumeKind, list[Path]]]:
    """Names each case's files by their distinguishing words, such as `t1w_gd`. Files without such words are omitted.

    Args:
        files_by_case: maps each case's name to its files. The name begins with the patient's folder.
    """
    words_by_case = {case: [_split(get_stem(file.name)) for file in files] for case, files in files_by_case.items()}
    shared = find_shared_words({case: set(chain(*lists)) for case, lists in words_by_case.items()})
    words_of_files = [set(words) & shared for lists in words_by_case.values() for words in lists]
    everywhere = set.intersection(*words_of_files)
    if all(words - everywhere for words in words_of_files if words):  # a word in every file name distinguishes nothing
        shared -= everywhere
    named: dict[str, dict[VolumeKind, list[Path]]] = {case: {} for case in files_by_case}
    for case, lists in words_by_case.items():
        for file, words in zip(files_by_case[case], lists, strict=True):
            if kind := _to_kind(words, shared):
                named[case].setdefault(kind, []).append(file)
    return named


def find_shared_words(words_by_case: Mapping[str, Collection[str]]) -> set[str]:
    """Returns the words that are safe to show. Enough patients share these words, and no case name contains them."""
    patients: dict[str, set[str]] = {}
    for case, words in words_by_case.items():
        for word in set(words) - _list_folder_words(case):
            patients.setdefault(word, set()).add(_get_patient(case))
    needed = max(2, -(-len(set(map(_get_patient, words_by_case))) // 2))
    return {word for word, owners in patients.items() if len(owners) >= needed}


def describe(message: str, kinds_by_case: KindsByCase, derived: DerivedLabelMaps | None = None) -> UndescribedData:
    """Returns the error for undescribed data.

    Args:
        message: describes the mismatch between data and declaration.
        kinds_by_case: see `name_files`.
        derived: the label maps; None to detect them by the files' values.
    """
    counts = Counter(kind for kinds in kinds_by_case.values() for kind in kinds)
    ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    labels, notes = derived or _find_labels(kinds_by_case, ordered)
    names = {label.name for label in labels}
    images = [kind for kind in ordered if kind not in names]
    modalities = [kind for kind in images if ordered[kind] == ordered[images[0]]]
    return UndescribedData(message, ordered, _try_to_declare(modalities, labels), notes)


def _try_to_declare(modalities: Sequence[VolumeKind], labels: Sequence[LabelMap]) -> DatasetDeclaration | None:
    try:
        return declare("dataset", modalities, labels) if modalities else None
    except BadDataset:  # more modalities or label maps than a declaration has
        return None


def _find_labels(kinds_by_case: KindsByCase, kinds: Collection[VolumeKind]) -> DerivedLabelMaps:
    """Returns the kinds that look like label maps: their files hold few values, all of them whole numbers."""
    found: list[LabelMap] = []
    notes: tuple[str, ...] = ()
    for kind in kinds:
        files = [VolumeFile(by_kind[kind][0]) for by_kind in kinds_by_case.values() if kind in by_kind]
        values = read_values(files[0])
        if values is None or len(values) > MAX_DERIVED_VALUES:
            continue
        cases = [CaseSource("", "", {kind: file}) for file in files]
        try:
            derived = derive_label_maps(cases, [kind])
        except BadDataset:  # the files of other cases hold many values, or all are empty
            continue
        found += derived.maps
        notes += derived.notes
    return DerivedLabelMaps(found, notes)


def _to_kind(words: Sequence[str], shared: Collection[str]) -> VolumeKind:
    """Returns an id by which `folders.classify` finds the file with these words; empty if there is none."""
    chosen = [word for word in words if word in shared]
    kind = ""
    while chosen and not (kind and f"_{kind}_" in f"_{'_'.join(words)}_"):  # not if words were left out in between
        kind = to_volume_id("_".join(chosen), "")
        chosen = chosen[1:]
    return kind if f"_{kind}_" in f"_{'_'.join(words)}_" else ""


def _split(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def _get_patient(case: str) -> str:
    return case.partition("/")[0]


def _list_folder_words(case: str) -> set[str]:
    """Words of a case's folders, and the letters of words such as `surname7`."""
    return set(_split(case)) | set(re.findall(r"[a-z]+", case.lower()))
