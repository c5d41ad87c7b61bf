"""Checks whether a model's field of view cuts off organs. The check runs when a dataset is imported for the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.field_of_view import CAUTION_BELOW, REFUSE_BELOW, CaseInside, report_cut
from vfmalign.core.domain.metrics import list_structures
from vfmalign.core.domain.modality_map import ModalityMap, resolve_input
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.field_of_view import measure_field_of_view
from vfmalign.imaging.volumes import Volume


@dataclass(frozen=True)
class ImportingModel:
    """The model for which a dataset is imported.

    Attributes:
        id: id of the model.
        preprocessing: input of the model.
        modality_map: maps each modality of the dataset to an input of the model.
        allow_cut_organs: accept cases even if less than `REFUSE_BELOW` of a structure lies in the field of view.
    """

    id: str
    preprocessing: Preprocessing
    modality_map: ModalityMap
    allow_cut_organs: bool = False


class CutOrgansCheck:
    """Measures how much of each structure lies in a model's field of view, case by case.

    Args:
        model: the model.
        declaration: declaration of the dataset.

    Raises:
        BadOption: the dataset lacks an input of the model.
    """

    def __init__(self, model: ImportingModel, declaration: DatasetDeclaration) -> None:
        self._model = model
        self._input = resolve_input(model.id, model.preprocessing, model.modality_map, declaration)
        self._structures = list_structures(declaration.labels)
        self._inside: dict[str, dict[VolumeKind, float]] = {}

    def measure(self, case_id: str, volumes: Mapping[VolumeKind, Volume]) -> None:
        """Measures one case. Raises the errors of `measure_field_of_view`."""
        self._inside[case_id] = measure_field_of_view(volumes, self._input, self._structures, case_id).inside

    def list_shares(self, dataset: DatasetManifest) -> tuple[CaseInside, ...]:
        """Returns, for each case with structures, the share of each structure that lies in the field of view."""
        return tuple(
            CaseInside(case=case.id, split=split, inside=self._inside[case.id])
            for split in SPLITS
            for case in dataset.split(split)
            if self._inside.get(case.id)
        )

    def list_notes(self, dataset: DatasetManifest, labels: Mapping[str, str]) -> list[str]:
        """Returns a note about structures that the field of view cuts off, if there are any.

        It names cases by `labels`.
        """
        note = report_cut(self.list_shares(dataset), CAUTION_BELOW, self._model.id, labels)
        return [note] if note else []

    def list_problems(self, dataset: DatasetManifest, labels: Mapping[str, str]) -> list[str]:
        """Returns the reason why the dataset is refused, if there is one. It names cases by `labels`."""
        problem = report_cut(self.list_shares(dataset), REFUSE_BELOW, self._model.id, labels)
        if not problem or self._model.allow_cut_organs:
            return []
        return [f"{problem}; choose a model with a larger field of view, or allow it with --allow-cut-organs"]
