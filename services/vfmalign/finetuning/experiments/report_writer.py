"""Writes the report of a finished experiment from the artifacts of its checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.errors import NotFound
from vfmalign.core.storage.keys import experiment_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.db.repository import StoredRef
from vfmalign.finetuning.experiments.analysis.cells import Cell, MissingCell, get_primary_shift, make_cell
from vfmalign.finetuning.experiments.analysis.experiment_report import analyse_cells
from vfmalign.finetuning.experiments.cell_results import CellResult, CellResults
from vfmalign.finetuning.experiments.cell_status import CellStatus
from vfmalign.finetuning.experiments.reports.cells_table import to_csv
from vfmalign.finetuning.experiments.reports.html import render
from vfmalign.finetuning.experiments.repository import ExperimentRefs, StoredExperiment

REPORT = "report.json"
_MEDIA_TYPES = {
    "cells.csv": "text/csv; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    REPORT: "application/json",
}


class ReportWriter:
    """Writes reports of experiments whose cells have all ended.

    Args:
        results: results of the cells.
        store: object store of the report.
    """

    def __init__(self, results: CellResults, store: ObjectStore) -> None:
        self._results = results
        self._store = store

    def write(self, experiment: StoredExperiment, cells: Sequence[CellStatus]) -> ExperimentRefs:
        """Stores the report unless it exists, and returns references to its files.

        Raises:
            DataLoss: an artifact of a finished check is missing or was changed; its owner is the check.
        """
        try:
            refs = self._get_refs(experiment)
            if experiment.report in (None, refs):
                return refs  # otherwise it was damaged after it had been recorded
        except NotFound:
            pass
        spec = experiment.spec
        controls = {
            (cell.cell.model, cell.cell.task, cell.cell.seed): self._read_shift(cell)
            for cell in cells
            if cell.cell.shuffled_labels and cell.state == "succeeded"
        }
        cells = [cell for cell in cells if not cell.cell.shuffled_labels]
        report = analyse_cells(
            experiment.id,
            spec.title or experiment.id,
            [self._read_cell(cell, controls) for cell in cells if cell.state == "succeeded"],
            [_make_missing_cell(cell) for cell in cells if cell.state != "succeeded"],
            seed=spec.seeds[0],
            resamples=spec.bootstrap_resamples,
            level=spec.interval_level,
        )
        # report.json is written last, because its existence means that the report is complete.
        files = {"cells.csv": to_csv(report), "report.html": render(report), REPORT: report.to_json()}
        for name, data in files.items():
            self._store.put(_get_key(experiment, name), data, content_type=_MEDIA_TYPES[name])
        return self._get_refs(experiment)

    def _read_cell(self, status: CellStatus, controls: Mapping[tuple[str, str, int], Estimate]) -> Cell:
        cell, result = status.cell, self._read_result(status)
        control = controls.get((cell.model, cell.task, cell.seed))
        return make_cell(
            result.card,
            result.report,
            result.scores,
            check=result.check,
            task=cell.task,
            seed=cell.seed,
            controls={} if control is None else {"shuffled_labels": control},
        )

    def _read_shift(self, status: CellStatus) -> Estimate:
        return get_primary_shift(self._read_result(status).report.result)

    def _read_result(self, status: CellStatus) -> CellResult:
        return self._results.read(status.cell) if status.restored else self._results.assemble(status.cell)

    def _get_refs(self, experiment: StoredExperiment) -> ExperimentRefs:
        # report.json is read first: without it, the other files are left over from an interrupted attempt.
        json_ref = self._get_ref(experiment, REPORT)
        return ExperimentRefs(
            json_ref=json_ref,
            html_ref=self._get_ref(experiment, "report.html"),
            csv_ref=self._get_ref(experiment, "cells.csv"),
        )

    def _get_ref(self, experiment: StoredExperiment, name: str) -> StoredRef:
        key = _get_key(experiment, name)
        data = self._store.get(key)
        return StoredRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _get_key(experiment: StoredExperiment, name: str) -> str:
    """Returns the key of a report's file; every retry has a report of its own, since objects are written once."""
    return experiment_key(experiment.id, f"retry-{experiment.retries}/{name}" if experiment.retries else name)


def _make_missing_cell(status: CellStatus) -> MissingCell:
    cell = status.cell
    reason = status.failure.message if status.failure is not None else f"its check is {status.state}"
    return MissingCell(model=cell.model, task=cell.task, seed=cell.seed, check=cell.check_id, reason=reason)
