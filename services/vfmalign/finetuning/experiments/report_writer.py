"""Writes the report of a finished experiment from the artifacts of its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vfmalign.analysis.experiments.cells import (
    Cell,
    ControlName,
    MissingCell,
    get_primary_shift,
    make_cell,
)
from vfmalign.analysis.experiments.report import analyse_cells
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.errors import NotFound
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.keys import experiment_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.experiments.cell_results import CellResult, CellResults
from vfmalign.finetuning.experiments.cell_status import CellStatus
from vfmalign.finetuning.experiments.repository import ExperimentRefs, StoredExperiment
from vfmalign.finetuning.experiments.request import PlannedCell
from vfmalign.finetuning.experiments.seed_control import CellFeatures
from vfmalign.reports.experiments.cells_table import to_csv
from vfmalign.reports.experiments.page import render

CompareSeeds = Callable[[CellFeatures | None, CellFeatures | None, float], Estimate]
REPORT = "report.json"
_MEDIA_TYPES = {
    "cells.csv": "text/csv; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    REPORT: "application/json",
}


class ReportWriter:
    """Writes reports of experiments after all of their cells have ended.

    Args:
        results: results of the cells.
        store: object store of the report.
        compare_seeds: computes the control between seeds for two cells that differ only in their seed.
    """

    def __init__(self, results: CellResults, store: ObjectStore, compare_seeds: CompareSeeds) -> None:
        self._results = results
        self._store = store
        self._compare_seeds = compare_seeds

    def write(self, experiment: StoredExperiment, cells: Sequence[CellStatus]) -> ExperimentRefs:
        """Stores the report if it does not exist yet, and returns references to its files.

        Raises:
            DataLoss: an artifact of a finished check is missing or was changed. The error names the check as the owner.
        """
        try:
            refs = self._get_refs(experiment)
            if experiment.report in (None, refs):
                return refs  # otherwise it was damaged after it was recorded
        except NotFound:
            pass
        spec = experiment.spec
        results = [(status.cell, self._read_result(status)) for status in cells if status.state == "succeeded"]
        report = analyse_cells(
            experiment.id,
            spec.title or experiment.id,
            self._make_cells(results, spec.interval_level),
            [_make_missing_cell(c) for c in cells if c.state != "succeeded" and not c.cell.shuffled_labels],
            seed=spec.seeds[0],
            level=spec.interval_level,
            train_cases=spec.train_cases,
            train_size=experiment.pinned.train_size,
        )
        # report.json is written last, because its existence means that the report is complete.
        files = {"cells.csv": to_csv(report), "report.html": render(report), REPORT: report.to_json()}
        for name, data in files.items():
            self._store.put(_get_key(experiment, name), data, content_type=_MEDIA_TYPES[name])
        return self._get_refs(experiment)

    def _make_cells(self, results: Sequence[tuple[PlannedCell, CellResult]], level: float) -> list[Cell]:
        plain, shuffled, frozen = (
            {
                (cell.model_id, cell.task, cell.train_cases, cell.seed): result
                for cell, result in results
                if (cell.shuffled_labels, cell.frozen) == kind
            }
            for kind in ((False, False), (True, False), (False, True))
        )
        cells = []
        for (model, task, count, seed), result in plain.items():
            controls: dict[ControlName, Estimate] = {}
            if (model, task, count, seed) in shuffled:
                controls["shuffled_labels"] = get_primary_shift(shuffled[model, task, count, seed].report.result)
            seeds = [one[-1] for one in plain if one[:-1] == (model, task, count)]
            if len(seeds) > 1:  # next seed; last against first: all seeds have as many pairs
                following = plain[model, task, count, seeds[(seeds.index(seed) + 1) % len(seeds)]]
                controls["between_seeds"] = self._compare_seeds(result.features, following.features, level)
            cells.append(
                make_cell(
                    result.card,
                    result.report,
                    result.scores,
                    check=result.check_id,
                    task=task,
                    seed=seed,
                    controls=controls,
                    train_cases=count,
                    frozen_scores=frozen[model, task, count, seed].scores["pretrained"]
                    if (model, task, count, seed) in frozen
                    else (),
                )
            )
        return cells

    def _read_result(self, status: CellStatus) -> CellResult:
        return self._results.read(status.cell) if status.restored else self._results.assemble(status.cell)

    def _get_refs(self, experiment: StoredExperiment) -> ExperimentRefs:
        # report.json is read first: without it, the other files remain from an interrupted attempt.
        json_ref = self._get_ref(experiment, REPORT)
        return ExperimentRefs(
            json_ref=json_ref,
            html_ref=self._get_ref(experiment, "report.html"),
            csv_ref=self._get_ref(experiment, "cells.csv"),
        )

    def _get_ref(self, experiment: StoredExperiment, name: str) -> StoredFile:
        key = _get_key(experiment, name)
        return StoredFile.of(key, self._store.get(key))


def _get_key(experiment: StoredExperiment, name: str) -> str:
    """Returns the key of a report's file. Every retry has its own report, because objects are never overwritten."""
    return experiment_key(experiment.id, f"retry-{experiment.retries}/{name}" if experiment.retries else name)


def _make_missing_cell(status: CellStatus) -> MissingCell:
    cell = status.cell
    reason = status.failure.message if status.failure is not None else f"its check is {status.state}"
    if cell.frozen:
        reason = f"with a frozen encoder: {reason}"
    return MissingCell(
        model_id=cell.model_id,
        task=cell.task,
        seed=cell.seed,
        check_id=cell.check_id,
        reason=reason,
        train_cases=cell.train_cases,
    )
