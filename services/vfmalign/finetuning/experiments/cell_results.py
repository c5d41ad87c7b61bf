"""Results of cells. `cells/<digest>.json` contains the data of one finished check that an experiment reads.

The digest covers the check's request, the digests of its inputs, and the version. If the result of a cell exists, no
experiment computes it again, even if another deployment computed it. The result contains the features of the primary
layer, but no other features, no weights and no figures. The result is therefore small enough to be kept in a repository
or copied to another object store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import CaseScore, JobResult, Network
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import Record, Sha256
from vfmalign.core.runtime import logs
from vfmalign.core.storage.keys import cell_key, check_key, job_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.artifacts import RESTORE
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.checks.reporting import read_report
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.experiments.request import PlannedCell
from vfmalign.finetuning.experiments.seed_control import CellFeatures, read_features
from vfmalign.finetuning.jobs.request import NETWORKS

AnyRecord = TypeVar("AnyRecord", bound=Record)
CELL = "cell"
"""`DataLoss.kind` of a result."""
_log = logs.get(__name__)


class CellResult(Record):
    """Content of `cells/<digest>.json`: the result of one cell.

    Attributes:
        cell: digest of the cell, see `PlannedCell.result_digest`.
        check_id: id of the check that computed the result. The id is valid in the deployment of that check.
        card: card of the model, without the digests of its pretraining data.
        report: report of the check, without its figures.
        scores: maps each network to its values of the main metric on the test cases.
        features: features for the control between seeds; None if they are too large, or if the encoder is frozen.
        processor_seconds: maps each network to the processor time of its trainings. If cells share a baseline, each
            cell includes the time of the baseline's job.
    """

    cell: Sha256
    check_id: str
    card: ModelCard
    report: CheckReport
    scores: Mapping[Network, tuple[CaseScore, ...]]
    features: CellFeatures | None
    processor_seconds: Mapping[Network, float]


class CellResults:
    """Reads, writes and finds results.

    Args:
        checks: repository of the checks.
        store: object store of the checks' artifacts and of the results.
    """

    def __init__(self, checks: CheckRepository, store: ObjectStore) -> None:
        self._checks = checks
        self._store = store
        self._stored: set[str] = set()

    def exists(self, cell: PlannedCell) -> bool:
        """Returns whether a readable result of the cell exists."""
        try:
            self.read(cell)
        except DataLoss as loss:
            self._stored.discard(cell.result_digest)  # the experiment that stored it may have been deleted
            if not isinstance(loss.__cause__, NotFound):
                _log.warning("cell_result_unreadable", check=cell.check_id, error=loss)
            return False
        return True

    def read(self, cell: PlannedCell) -> CellResult:
        """Reads the stored result of a cell.

        Raises:
            DataLoss: the result is missing or unreadable, or belongs to another cell. The error names the check as the
                owner.
        """
        key = cell_key(cell.result_digest)
        with lost_as(CELL, cell.check_id, RESTORE):
            result = self._store.read(key, CellResult)
            if result.cell != cell.result_digest:
                raise PreconditionFailed("the result belongs to another cell", subject=self._store.uri(key))
        return result

    def write(self, cell: PlannedCell) -> None:
        """Stores the result of a cell after its check succeeded. An existing result is not replaced.

        Raises:
            DataLoss: an artifact of the check is missing or was changed. The error names the check as the owner.
        """
        if cell.result_digest in self._stored:
            return
        if not self.exists(cell):
            self._store.write(cell_key(cell.result_digest), self.assemble(cell))
        self._stored.add(cell.result_digest)

    def assemble(self, cell: PlannedCell) -> CellResult:
        """Builds the result of a cell from the artifacts of its check. Raises the same errors as `write`."""
        check_id = cell.check_id
        report = read_report(self._store, self._checks.get(check_id))
        digests, results = self._checks.artifact_digests(check_id), self._checks.job_results(check_id)
        metric = report.result.primary_metric
        scores: dict[Network, tuple[CaseScore, ...]] = {}
        processor_seconds: dict[Network, float] = {}
        with lost_as("report", check_id, RESTORE):
            validated = self._read_stage(check_id, "validate", Validated, digests)
            reference = self._read_stage(check_id, "features_reference", FeatureSetRef, digests)
            features = None
            if not cell.frozen:
                after = self._read_stage(check_id, "features_after", FeatureSetRef, digests)
                features = read_features(self._store, report.result.shift.primary_layer, reference, after)
            for network in NETWORKS:
                job = report.result.network(network).job_id
                expected = results[job].sha256 if job in results else None
                result = self._store.read(job_key(job, "result.json"), JobResult, expected)
                scores[network] = tuple(
                    score.model_copy(update={"values": {metric: score.values.get(metric)}})
                    for score in result.test_scores
                )
                processor_seconds[network] = result.processor_seconds
        return CellResult(
            cell=cell.result_digest,
            check_id=check_id,
            card=validated.card.model_copy(update={"pretraining": ()}),
            report=report.model_copy(update={"run": report.run.model_copy(update={"figures": {}})}),
            scores=scores,
            features=features,
            processor_seconds=processor_seconds,
        )

    def _read_stage(self, check_id: str, stage: str, record: type[AnyRecord], digests: Mapping[str, str]) -> AnyRecord:
        return self._store.read(check_key(check_id, f"stages/{stage}.json"), record, digests.get(stage))
