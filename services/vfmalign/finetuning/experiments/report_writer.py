"""Writes the report of a finished experiment from the artifacts of its checks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vfmalign.core.domain.errors import NotFound
from vfmalign.core.domain.jobs import CaseScore, JobResult, Network
from vfmalign.core.storage.keys import check_key, experiment_key, job_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import RESTORE
from vfmalign.finetuning.checks.reporting import read_report
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.db.repository import StoredRef
from vfmalign.finetuning.experiments.analysis.cells import Cell, MissingCell, make_cell
from vfmalign.finetuning.experiments.analysis.experiment_report import analyse_cells
from vfmalign.finetuning.experiments.cell_status import CellStatus
from vfmalign.finetuning.experiments.reports.cells_table import to_csv
from vfmalign.finetuning.experiments.reports.html import render
from vfmalign.finetuning.experiments.repository import ExperimentRefs, StoredExperiment
from vfmalign.finetuning.jobs.request import NETWORKS

REPORT = "report.json"
_MEDIA_TYPES = {
    "cells.csv": "text/csv; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    REPORT: "application/json",
}


class ReportWriter:
    """Writes reports of experiments whose cells have all ended.

    Args:
        checks: repository of the checks.
        store: object store of the checks' artifacts and of the report.
    """

    def __init__(self, checks: CheckRepository, store: ObjectStore) -> None:
        self._checks = checks
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
        report = analyse_cells(
            experiment.id,
            spec.title or experiment.id,
            [self._read_cell(cell) for cell in cells if cell.state == "succeeded"],
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

    def _read_cell(self, status: CellStatus) -> Cell:
        check_id = status.cell.check_id
        report = read_report(self._store, self._checks.get(check_id))
        digests, results = self._checks.artifact_digests(check_id), self._checks.job_results(check_id)
        scores: dict[Network, Sequence[CaseScore]] = {}
        with lost_as("report", check_id, RESTORE):
            validated = self._store.read(
                check_key(check_id, "stages/validate.json"), Validated, digests.get("validate")
            )
            for network in NETWORKS:
                job = report.result.network(network).job
                expected = results[job].sha256 if job in results else None
                scores[network] = self._store.read(job_key(job, "result.json"), JobResult, expected).test_scores
        return make_cell(validated.card, report, scores, check=check_id, task=status.cell.task, seed=status.cell.seed)

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
