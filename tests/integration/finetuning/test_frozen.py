"""Checks and experiments with a frozen encoder, through the finetuning service's own process."""

from __future__ import annotations

import csv
import io
import json

import pytest
from tests.integration.finetuning.test_experiments import MODELS, TASKS, create, finish

from vfmalign.analysis.checks.gate_intervals import evaluate
from vfmalign.analysis.checks.gates import Gate, Outcome
from vfmalign.analysis.checks.records import CheckReport
from vfmalign.client.messages.checks import CheckResult
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import JobResult, TrainingSpec
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.v1 import alignment_pb2, experiment_pb2, finetuning_pb2

REASON = "not applicable (frozen)"
STAGES = (
    "validate", "features_reference", "features_before", "recipe", "job_pretrained", "job_scratch", "job_specialised",
    "job_scratch_frozen", "measures", "report",
)  # fmt: skip


@pytest.fixture(autouse=True)
def models(store, stored):
    for key in list(store.list("cells/")):
        store.delete(key)
    card = store.read(model_card_key("vfm"), ModelCard)
    store.write(model_card_key("vfm2"), card.model_copy(update={"id": "vfm2"}))


def read_spec(store, job):
    return store.read(job_key(job, "spec.json"), TrainingSpec)


async def test_a_frozen_check_has_a_further_network_and_no_shift(service, store, peers):
    name = await service.create("frozen", frozen=True)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert [stage.name for stage in check.stages] == list(STAGES)
    jobs = [f"{name}-{network}" for network in ("pretrained", "scratch", "specialised", "scratch-frozen")]
    assert list(check.job_ids) == jobs
    assert [read_spec(store, job).frozen for job in jobs] == [True, False, False, True]
    assert [read_spec(store, job).network for job in jobs] == ["pretrained", "scratch", "specialised", "scratch"]
    assert read_spec(store, jobs[3]).publish_as == f"{name}-scratch-frozen-encoder"
    assert sorted(service.starts()) == sorted(jobs), "frozen and fine-tuned random weights share no training"
    assert sorted(call.split("/")[0::2] for call in peers.features.commits) == [["vfm", "2"], ["vfm", "4"]]
    assert peers.mmd.calls == []

    result = check.result
    scores = {job: store.read(job_key(job, "result.json"), JobResult).test_scores for job in jobs}
    means = {job: sum(one.values["lesion_dice"] for one in of_job) / 12 for job, of_job in scores.items()}
    assert result.gain_frozen_random.score == pytest.approx(means[jobs[0]])
    assert result.gain_frozen_random.baseline == pytest.approx(means[jobs[3]])
    assert result.gain_frozen_random.absolute.HasField("interval")
    assert result.rpg_scratch.baseline == pytest.approx(means[jobs[1]]), "the random arm is fine-tuned"
    assert result.weight_change == 0.0
    assert [shift.mmd.layer for shift in result.shifts] == ["stages.1", "stages.0"]
    for shift in result.shifts:
        for estimate in (
            shift.mmd.raw.mmd2, shift.mmd.standardised.mmd2, shift.mmd.standardised.p_value, shift.shift_ratio,
            shift.paired_similarity,
        ):  # fmt: skip
            assert (estimate.HasField("value"), estimate.absent_reason) == (False, REASON)
        assert not shift.saturated
    measured = {one.name: one.value.absent_reason for one in result.measures}
    assert [measured[one] for one in ("cka", "frechet", "energy")] == [REASON] * 3
    assert "no class" in measured["logme"]
    assert any(caution.startswith("Frozen encoder.") for caution in result.cautions)

    report = CheckReport.model_validate_json(store.get(store.key(result.report_json.uri)))
    assert report.result.settings["frozen"] == "true"
    assert not {"features_random", "features_after"} & set(report.result.settings)
    assert set(report.run.devices) == {"features", "training"}
    html = store.get(store.key(result.report_html.uri)).decode()
    assert "Not applicable (frozen)" in html
    assert "your model minus frozen random weights" in html
    assert "--frozen" in html


@pytest.mark.parametrize("quantity", ["mmd2", "mmd2_std"])
async def test_a_gate_on_the_shift_of_a_frozen_check_is_undecidable(service, quantity):
    check = await service.finish(await service.create("gated", frozen=True, seed=7, seeds=3))
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    result = CheckResult.from_proto(check.result)
    assert result.seed_variation.layers[0].standardised.mean.absent_reason == REASON
    assert result.gain_frozen_random.absolute.interval.method.startswith("crossed")
    assert result.gain_frozen_random.variance.baseline_seeds == 3
    _, (decision,) = evaluate(Gate.parse([f"{quantity}.upper<=0.5"], None, None), result)
    assert (decision.outcome, decision.remarks) == (Outcome.UNDECIDABLE, (REASON,))


async def test_frozen_checks_share_the_frozen_training_of_random_weights_and_no_other(service, store):
    whole = await service.create("whole", seed=8)
    assert (await service.finish(whole)).state == alignment_pb2.CHECK_STATE_SUCCEEDED
    first = await service.create("first", seed=8, frozen=True)
    assert (await service.finish(first)).state == alignment_pb2.CHECK_STATE_SUCCEEDED
    assert sorted(service.starts()[3:]) == [f"{first}-pretrained", f"{first}-scratch-frozen"]
    second = await service.create("second", seed=8, frozen=True)
    assert (await service.finish(second)).state == alignment_pb2.CHECK_STATE_SUCCEEDED
    assert service.starts()[5:] == [f"{second}-pretrained"]


async def test_an_experiment_shows_frozen_and_fine_tuned_scores_side_by_side(service, store):
    fields = {"tasks": TASKS[:1], "seeds": [1, 2]}
    plain = await finish(service, await create(service, "plain", **fields))
    trained = len(service.starts())
    experiment = await finish(service, await create(service, "both", frozen=True, **fields))
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    assert [cell.frozen for cell in experiment.cells] == [False] * 4 + [True] * 4
    assert experiment.cells[4].check_id == f"{experiment.cells[0].check_id}-frozen"
    own = [job for job in service.starts()[trained:] if "-frozen-pretrained" in job]
    # Per seed, the frozen random weights are trained once for both models, and every model's head once.
    assert len(own) == 4
    assert len(service.starts()) == trained + 6
    both, before = (
        json.loads(store.get(store.key(one.report_json.uri), sha256=one.report_json.sha256))
        for one in (experiment, plain)
    )
    for average in both["averages"]:
        assert average.pop("frozen_score") == pytest.approx(average["score"] - 0.05)
        difference = average.pop("frozen_difference")
        assert difference["value"] == pytest.approx(-0.05)
    for cell in both["cells"]:
        assert len(cell.pop("frozen_scores")) == 12
    assert {name: both[name] for name in ("averages", "cells", "claims", "answers")} == {
        name: before[name] for name in ("averages", "cells", "claims", "answers")
    }, "frozen cells enter no other number"
    assert "Frozen encoder and fine-tuning" in store.get(store.key(experiment.report_html.uri)).decode()
    table = csv.DictReader(io.StringIO(store.get(store.key(experiment.cells_csv.uri)).decode()))
    assert all(float(row["frozen_score"]) == pytest.approx(float(row["score"]) - 0.05) for row in table)
    assert {cell.model_id for cell in experiment.cells} == set(MODELS)


async def test_a_specialised_network_cannot_be_frozen(service):
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, network=finetuning_pb2.NETWORK_SPECIALISED, dataset_id="demo",
        model_id="vfm", task={"name": "segmentation"}, frozen=True,
    )  # fmt: skip
    with pytest.raises(BadOption, match="a specialised network has none") as caught:
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="refused", spec=spec))
    assert caught.value.field == "spec.frozen"
    assert service.starts() == []
