"""Conversion of experiments to messages of the API."""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.client.messages import experiments as messages
from vfmalign.client.messages.common import ObjectRef, Progress
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.experiments.cell_status import CellStatus, count_states
from vfmalign.finetuning.experiments.repository import StoredExperiment
from vfmalign.finetuning.jobs.converters import with_remedy


def to_message(
    experiment: StoredExperiment, store: ObjectStore, cells: Sequence[CellStatus], *, whole: bool = True
) -> messages.Experiment:
    """Converts an experiment.

    Args:
        experiment: the experiment.
        store: object store of the experiment's report.
        cells: status of every cell.
        whole: whether to include the cells. Lists of experiments do not include cells.
    """
    report = experiment.report if experiment.state == "succeeded" else None  # otherwise it is created again
    return messages.Experiment(
        experiment_id=experiment.id,
        spec=experiment.spec,
        state=experiment.state,
        progress=_to_progress(experiment, cells),
        create_time=experiment.created_at,
        start_time=experiment.started_at,
        end_time=experiment.finished_at,
        cells=tuple(_to_cell(cell) for cell in cells) if whole else (),
        counts=messages.ExperimentCounts(**count_states(cells)),
        failure=with_remedy(experiment.failure, "experiment", experiment.id),
        report_json=None if report is None else ObjectRef.of(report.json_ref, store.uri),
        report_html=None if report is None else ObjectRef.of(report.html_ref, store.uri),
        cells_csv=None if report is None else ObjectRef.of(report.csv_ref, store.uri),
        created_by=experiment.creator,
        dataset_digest=experiment.pinned.dataset_digest,
        model_sha256=experiment.pinned.model_sha256,
    )


def _to_cell(status: CellStatus) -> messages.ExperimentCell:
    return messages.ExperimentCell(
        model_id=status.cell.model_id,
        task=status.cell.task,
        seed=status.cell.seed,
        check_id=status.cell.check_id,
        state=status.state,
        progress=status.progress,
        end_time=status.finished_at,
        failure=status.failure,
        shuffled_labels=status.cell.shuffled_labels,
        train_cases=status.cell.train_cases,
        frozen=status.cell.frozen,
    )


def _to_progress(experiment: StoredExperiment, cells: Sequence[CellStatus]) -> Progress:
    # Elapsed time is counted up to the end of the last finished check. An experiment that only waits therefore does not
    # change, and watchers receive no message.
    ends = [cell.finished_at for cell in cells if cell.finished and cell.finished_at is not None]
    elapsed_s = (
        (max(ends) - experiment.started_at).total_seconds() if ends and experiment.started_at is not None else 0.0
    )
    counts = {"done": sum(cell.finished for cell in cells), "total": len(cells), "unit": "check"}
    return experiment.progress.model_copy(update=counts | {"elapsed_seconds": max(elapsed_s, 0.0)})
