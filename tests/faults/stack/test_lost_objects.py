"""Six kinds of lost objects at three moments of a check: created again with the same numbers, or named with the remedy.

One check on phantoms is shared. A case rewinds it to its moment, damages an object and lets the running orchestrator
continue; afterwards everything is intact again. All services, the store, the database and the training are real.

    before     the features are extracted, MMD² is not computed
    later      MMD² is computed, the check is in its last stages
    finished   the check has ended; somebody asks for its report or uses its artifacts
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2
from tests.e2e.conftest import MODEL, TIMEOUT_S, recipe
from tests.faults.stack.test_kills import numbers

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.storage.keys import check_key, job_key, model_card_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.database.database import Database
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import alignment_pb2, common_pb2, features_pb2, finetuning_pb2

pytestmark = pytest.mark.e2e

CHECK = "shared"
ENCODER = f"{CHECK}-encoder"
FAILED, SUCCEEDED = alignment_pb2.CHECK_STATE_FAILED, alignment_pb2.CHECK_STATE_SUCCEEDED
LATER_STAGES = {"before": ("mmd", "measures", "report"), "later": ("measures", "report")}
ARTIFACTS = {"mmd": "mmd.json", "measures": "stages/measures.json", "report": "report.json"}


def delete(store: Any, key: str) -> None:
    store.delete(key)


def truncate(store: Any, key: str) -> None:
    store.put(key, store.get(key)[:-8])


def change_last_byte(store: Any, key: str) -> None:
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


def change_digit(store: Any, key: str) -> None:
    """Leaves valid JSON with another number."""
    data = store.get(key)
    place = max(data.rfind(digit) for digit in (b"1", b"2", b"3"))
    digit = b"1" if data[place : place + 1] != b"1" else b"2"
    store.put(key, data[:place] + digit + data[place + 1 :])


@dataclass
class Shared:
    """The shared check, and means to rewind it."""

    world: Any
    first: Any
    database: Database

    @property
    def store(self) -> Any:
        return self.world.store

    def read(self, name: str, record: Any) -> Any:
        return self.store.read(check_key(CHECK, name), record)

    @property
    def feature_set(self) -> FeatureSetRef:
        """The features before."""
        result: FeatureSetRef = self.read("stages/features_before.json", FeatureSetRef)
        return result

    @property
    def part_key(self) -> str:
        return next(self.store.list(f"features/{self.feature_set.feature_set}/part-"))

    def rewind(self, moment: str, damage: Callable[[Any, str], None], key: str) -> None:
        """Puts the check back into the state of a moment, as a killed orchestrator leaves it, and damages an object."""
        stages = LATER_STAGES[moment]
        for stage in stages:
            self.store.delete(check_key(CHECK, ARTIFACTS[stage]))
        damage(self.store, key)
        with self.database.engine.begin() as connection:
            forget = sa.text("DELETE FROM stage_runs WHERE check_id = :id AND stage IN :stages")
            connection.execute(
                forget.bindparams(sa.bindparam("stages", expanding=True)), {"id": CHECK, "stages": list(stages)}
            )
            rewind = "UPDATE checks SET state = 'running', finished_at = NULL, report = NULL WHERE id = :id"
            connection.execute(sa.text(rewind), {"id": CHECK})

    def finish(self) -> CheckReport:
        """Waits for the end, and checks that it is the undisturbed one."""
        check = self.world.finish(CHECK)
        assert check.state == SUCCEEDED, check.failure
        assert numbers(MessageToDict(check.result)) == numbers(MessageToDict(self.first.result))
        result: CheckReport = self.read("report.json", CheckReport)
        return result

    def extract(self) -> Any:
        """Asks for the features before, as a user does."""
        request = features_pb2.ExtractDatasetRequest(
            model_id=MODEL, dataset_id=self.first.spec.dataset_id, split=common_pb2.SPLIT_TEST, verify=True,
            layers=[shift.mmd.layer for shift in self.first.result.shifts],
        )  # fmt: skip
        *_, last = self.world.features.ExtractDataset(request, timeout=120)
        assert last.feature_set.feature_set_id == self.feature_set.feature_set
        return last

    def run_named(self, check_id: str, **changes: Any) -> str:
        """Runs a check that cannot succeed, and returns the sentence that it fails with."""
        self.world.create(check_id, recipe=recipe(epochs=1, steps_per_epoch=2), **changes)
        check = self.world.finish(check_id)
        assert check.state == FAILED
        assert check.failure.reason == "DATA_LOSS"
        message: str = check.failure.message
        return message


@pytest.fixture(scope="module")
def shared(world: Any) -> Any:
    first = world.run(CHECK, recipe=recipe(epochs=1, steps_per_epoch=2), permutations=49, bootstrap_resamples=200)
    database = open_database(f"sqlite:///{world.home.service_state / 'finetuning.db'}")
    yield Shared(world, first, database)
    database.close()


def stages_of(report: CheckReport) -> list[str]:
    return [loss.stage for loss in report.run.losses]


# --- created again ----------------------------------------------------------------------------------------------------

Key = Callable[[Shared], str]
PART: Key = lambda shared: shared.part_key  # noqa: E731
MANIFEST: Key = lambda shared: f"features/{shared.feature_set.feature_set}/manifest.json"  # noqa: E731
WEIGHTS: Key = lambda shared: load_card(shared.store, ENCODER).checkpoint.key  # noqa: E731
CARD: Key = lambda shared: model_card_key(ENCODER)  # noqa: E731
RESULT: Key = lambda shared: job_key(f"{CHECK}-pretrained", "result.json")  # noqa: E731


def artifact(name: str) -> Key:
    return lambda shared: check_key(CHECK, name)


@pytest.mark.parametrize(
    ("key", "moment", "damage", "stage"),
    [
        pytest.param(PART, "before", change_last_byte, "features_before", id="part-before-changed"),
        pytest.param(PART, "later", delete, "features_before", id="part-later-deleted"),
        pytest.param(MANIFEST, "before", delete, "features_before", id="manifest-before-deleted"),
        pytest.param(MANIFEST, "later", truncate, "features_before", id="manifest-later-truncated"),
        pytest.param(WEIGHTS, "before", delete, "job_pretrained", id="encoder-before-deleted"),
        pytest.param(CARD, "later", change_digit, "job_pretrained", id="encoder-later-changed"),
        pytest.param(RESULT, "before", change_digit, "job_pretrained", id="result-before-changed"),
        pytest.param(RESULT, "later", truncate, "job_pretrained", id="result-later-truncated"),
        pytest.param(artifact("stages/features_before.json"), "before", delete, "features_before", id="stage-before"),
        pytest.param(artifact("mmd.json"), "later", change_digit, "mmd", id="stage-later-changed"),
    ],
)
def test_a_lost_object_of_a_running_check_is_created_again(
    shared: Shared, key: Key, moment: str, damage: Callable[[Any, str], None], stage: str
) -> None:
    lost = key(shared)
    shared.rewind(moment, damage, lost)
    report = shared.finish()
    assert stages_of(report)[-1] == stage
    assert shared.store.uri(lost) in report.run.losses[-1].message
    assert shared.store.exists(lost)
    assert report.result_digest == report.result.digest()


@pytest.mark.parametrize(
    ("key", "damage", "parts"), [(PART, truncate, 1), (MANIFEST, delete, 0)], ids=["part-finished", "manifest-finished"]
)
def test_lost_features_of_a_finished_check_are_extracted_again_by_who_needs_them(
    shared: Shared, key: Key, damage: Callable[[Any, str], None], parts: int
) -> None:
    damage(shared.store, key(shared))
    extracted = shared.extract()
    assert extracted.recomputed_parts == parts
    assert extracted.feature_set.manifest.sha256 == shared.feature_set.manifest_sha256
    assert shared.extract().computed_cases == 0


def test_a_lost_report_of_a_finished_check_is_written_again(shared: Shared) -> None:
    digest = shared.read("report.json", CheckReport).result_digest
    delete(shared.store, check_key(CHECK, "report.json"))
    check = shared.world.get(CHECK)
    assert check.state == alignment_pb2.CHECK_STATE_RUNNING
    assert check.progress.reason == "ARTIFACT_LOST"
    assert shared.store.uri(check_key(CHECK, "report.json")) in check.progress.detail
    assert shared.finish().result_digest == digest


def test_a_lost_job_result_of_a_finished_check_is_created_again_with_its_report(shared: Shared) -> None:
    """With its checkpoint, so that the network is trained from the start."""
    before = shared.store.read(RESULT(shared), JobResult)
    for key in (RESULT(shared), job_key(f"{CHECK}-pretrained", "checkpoint/latest.json")):
        delete(shared.store, key)
    delete(shared.store, check_key(CHECK, "report.html"))
    shared.world.get(CHECK)
    shared.finish()
    assert shared.store.read(RESULT(shared), JobResult).test_scores == before.test_scores


# --- named ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "later"])
def test_a_running_check_that_needs_the_imported_weights_no_more_ends_without_them(shared: Shared, moment: str) -> None:
    key = load_card(shared.store, MODEL).checkpoint.key
    data = shared.store.get(key)
    shared.rewind(moment, delete if moment == "before" else truncate, key)
    shared.finish()
    shared.store.put(key, data)


@pytest.mark.parametrize("model", [MODEL, ENCODER], ids=["weights-finished", "encoder-finished"])
def test_a_new_check_of_a_model_without_weights_names_them_and_the_remedy(shared: Shared, model: str) -> None:
    key = load_card(shared.store, model).checkpoint.key
    data = shared.store.get(key)
    delete(shared.store, key)
    message = shared.run_named(f"new-{model}", model_id=model)
    publisher = "pretrain" if model == MODEL else f"{CHECK}-pretrained"
    assert message.startswith(f"{shared.store.uri(key)}: the weights are missing; ")
    assert f"vfmalign jobs retry {publisher}" in message
    if model == MODEL:  # its remedy is the same as the encoder's, and a training process costs most of this module
        shared.store.put(key, data)
        return
    shared.world.jobs.RetryJob(finetuning_pb2.RetryJobRequest(job_id=publisher))
    *_, last = shared.world.jobs.WatchJob(finetuning_pb2.WatchJobRequest(job_id=publisher), timeout=TIMEOUT_S)
    assert last.job.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert shared.store.get(key) == data


def test_volumes_are_named_with_the_remedy(shared: Shared) -> None:
    key = next(shared.store.list(f"volumes/{shared.first.spec.dataset_id}/"))
    data = shared.store.get(key)
    truncate(shared.store, key)
    request = features_pb2.ExtractDatasetRequest(
        model_id=MODEL, dataset_id=shared.first.spec.dataset_id, split=_split_of(shared, key), layers=["stages.0"]
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(shared.world.features.ExtractDataset(request, timeout=120))
    shared.store.put(key, data)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    info = _error_info(caught.value)
    assert info.metadata["kind"] == "volume"
    assert info.metadata["subject"] == shared.store.uri(key)
    assert "vfmalign dataset import" in info.metadata["remedy"]


def test_repairs_are_counted(shared: Shared) -> None:
    """Last: the counts of the cases above."""
    kinds = {"features": ["feature_set_part"], "finetuning": ["job_result", "model", "stage", "report"]}
    for service, expected in kinds.items():
        port = shared.world.stack.get_state().services[service].ports.metrics
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            text = response.read().decode()
        counted = {
            line.split('"')[1] for line in text.splitlines()
            if line.startswith("vfmalign_artifacts_recomputed_total{") and not line.endswith(" 0.0")
        }  # fmt: skip
        assert set(expected) <= counted


def _split_of(shared: Shared, key: str) -> Any:
    """The split of the case that a volume belongs to."""
    from vfmalign.core.storage.datasets import load_dataset

    dataset = load_dataset(shared.store, shared.first.spec.dataset_id)
    names = {"pretrain": 1, "train": 2, "val": 3, "test": 4}
    return next(
        number for name, number in names.items()
        if any(ref.key == key for case in dataset.split(name) for ref in case.volumes.values())  # type: ignore[arg-type]
    )  # fmt: skip


def _error_info(error: Any) -> error_details_pb2.ErrorInfo:
    trailers = dict(error.trailing_metadata())
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert any(detail.Unpack(info) for detail in status.details)
    return info
