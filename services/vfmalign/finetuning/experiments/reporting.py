"""From the artifacts of an experiment's checks to its report in the store.

Reads cards, reports and scores, hands them to the analysis, stores what that makes. Decides nothing about numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vfmalign.core.domain.artifacts import CaseScore, JobResult, Network, check_key, experiment_key, job_key
from vfmalign.core.domain.errors import NotFound
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.analysis.records import CheckReport
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.experiments.analysis.cells import Cell, Missing, cell_of
from vfmalign.finetuning.experiments.cell_status import Standing
from vfmalign.finetuning.experiments.reports.html import conclude, render, to_csv
from vfmalign.finetuning.experiments.repository import Experiment, ExperimentRefs
from vfmalign.finetuning.jobs.repository import StoredRef
from vfmalign.finetuning.jobs.request import NETWORKS

REPORT = "report.json"
"""Written last: its existence means that the experiment is concluded."""
_TYPES = {
    "cells.csv": "text/csv; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    REPORT: "application/json",
}


class Collector:
    """Makes the report of an experiment whose cells have all ended.

    Args:
        checks: the book of checks.
        store: where their artifacts are and the experiment's go.
    """

    def __init__(self, checks: CheckRepository, store: ObjectStore) -> None:
        self._checks = checks
        self._store = store

    def conclude(self, experiment: Experiment, found: Sequence[Standing]) -> ExperimentRefs:
        """Stores the report unless it is there, and says where it lies.

        Raises:
            DigestMismatch: a check's report was changed after it was recorded.
            NotFound: an artifact of a finished check is gone.
        """
        try:
            return self._refs(experiment.id)
        except NotFound:
            pass
        request = experiment.request
        report = conclude(
            experiment.id,
            request.title or experiment.id,
            [self._cell(one) for one in found if one.state == "SUCCEEDED"],
            [_missing(one) for one in found if one.state != "SUCCEEDED"],
            seed=request.seeds[0],
            resamples=request.bootstrap_resamples,
            level=request.interval_level,
        )
        contents = {"cells.csv": to_csv(report), "report.html": render(report), REPORT: report.to_json()}
        for name, data in contents.items():
            self._store.put(experiment_key(experiment.id, name), data, content_type=_TYPES[name])
        return self._refs(experiment.id)

    def _cell(self, one: Standing) -> Cell:
        name = one.cell.check_id
        check = self._checks.get(name)
        if check.report is None:
            raise NotFound("a finished check has no report", subject=name, remedy="see the service's log")
        data = self._store.get(check.report.json_ref.key, sha256=check.report.json_ref.sha256)
        report = CheckReport.model_validate_json(data)
        valid = self._store.read(check_key(name, "stages/validate.json"), Validated)
        scores: dict[Network, Sequence[CaseScore]] = {
            network: self._store.read(job_key(report.result.network(network).job, "result.json"), JobResult).test_scores
            for network in NETWORKS
        }
        return cell_of(valid.card, report, scores, check=name, task=one.cell.task, seed=one.cell.seed)

    def _refs(self, experiment: str) -> ExperimentRefs:
        json_ref = self._ref(experiment, REPORT)  # first: without it the others are of a run that was killed
        return ExperimentRefs(
            json_ref=json_ref, html_ref=self._ref(experiment, "report.html"), csv_ref=self._ref(experiment, "cells.csv")
        )

    def _ref(self, experiment: str, name: str) -> StoredRef:
        key = experiment_key(experiment, name)
        data = self._store.get(key)
        return StoredRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _missing(one: Standing) -> Missing:
    reason = one.message if one.state == "FAILED" else f"its check is {one.state.lower()}"
    return Missing(model=one.cell.model, task=one.cell.task, seed=one.cell.seed, check=one.cell.check_id, reason=reason)
