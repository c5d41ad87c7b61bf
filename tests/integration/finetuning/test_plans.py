"""Checks with a declared plan, through the API."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from tests.integration.finetuning.test_training_seeds import read_report

from vfmalign.client.messages.checks import CheckPlan
from vfmalign.core.domain.errors import BadOption, Conflict, PreconditionFailed
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.v1 import alignment_pb2, common_pb2

PASSED, WARNED, FAILED = (
    alignment_pb2.PLAN_OUTCOME_PASSED,
    alignment_pb2.PLAN_OUTCOME_WARNED,
    alignment_pb2.PLAN_OUTCOME_FAILED,
)
ANY = ("gain", "equivalent", "harm", "inconclusive")


def make_plan(store, dataset="demo", **fields):
    """Fields of a check whose plan accepts any answer, or what `fields` state."""
    plan = alignment_pb2.CheckPlan(
        metric="lesion_dice",
        smallest_difference=0.02,
        seeds=3,
        model_sha256="c" * 64,
        dataset_digest=load_dataset(store, dataset).digest(),
    )
    plan.MergeFrom(alignment_pb2.CheckPlan(**(fields or {"require": ANY})))
    return {
        "dataset": dataset,
        "seeds": 3,
        "smallest_difference": plan.smallest_difference,
        "model_sha256": plan.model_sha256,
        "dataset_digest": plan.dataset_digest,
        "plan": plan,
    }


async def download(service, check, report_format):
    request = alignment_pb2.GetCheckReportRequest(check_id=check.check_id, format=report_format)
    return b"".join([part.content async for part in service.checks.GetCheckReport(request)])


async def finish(service, name, **fields):
    check = await service.finish(await service.create(name, seed=20, **fields))
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    return check


async def test_a_passing_plan_without_earlier_checks_is_passed_and_a_repeated_one_is_warned(service, store):
    unplanned = await finish(service, "other", dataset="twin")
    assert not unplanned.result.HasField("plan")
    assert not [key for key in store.list(f"checks/{unplanned.check_id}/") if key.endswith(".dsse")]
    with pytest.raises(BadOption, match="the report has no such file; choose html or json"):
        await download(service, unplanned, common_pb2.REPORT_FORMAT_DSSE)
    first = await finish(service, "first", **make_plan(store))
    plan = first.result.plan
    assert (plan.outcome, list(plan.earlier_checks)) == (PASSED, [])
    assert list(plan.passed) == [f"verdict={'|'.join(ANY)}"]
    assert plan.declare_time == first.create_time
    report = read_report(store, first)
    digest = CheckPlan.from_proto(first.spec.plan).digest()
    assert digest == plan.plan_sha256 == report.result.settings["plan_sha256"] == report.plan.plan_sha256

    envelope = await download(service, first, common_pb2.REPORT_FORMAT_DSSE)
    assert hashlib.sha256(envelope).hexdigest() == plan.statement.sha256
    public = (service.folder / "tokens/owner/signing.pub").read_bytes()
    signed = Envelope.from_dict(json.loads(envelope))
    signed.verify([SSlibKey.from_crypto(load_pem_public_key(public))], 1)
    statement = json.loads(signed.payload)
    content = await download(service, first, common_pb2.REPORT_FORMAT_JSON)
    assert statement["subject"][0]["digest"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert statement["predicate"]["result"] == "PASSED"

    with pytest.raises(Conflict, match=r"it differs in plan\.require"):
        await finish(service, "first", **make_plan(store, require=["gain"]))
    second = await finish(service, "second", **make_plan(store))
    assert second.result.plan.outcome == WARNED
    assert [earlier.check_id for earlier in second.result.plan.earlier_checks] == [first.check_id]
    await service.checks.DeleteCheck(alignment_pb2.DeleteCheckRequest(check_id=first.check_id))
    third = await finish(service, "third", **make_plan(store, require=["gain"]))
    assert third.result.plan.outcome == FAILED, "12 patients show no gain"
    names = [earlier.check_id for earlier in third.result.plan.earlier_checks]
    assert names == [first.check_id, second.check_id], "the first was deleted"


async def test_a_lost_statement_is_signed_again_and_without_a_key_a_plan_is_refused(service, store, signing_settings):
    check = await finish(service, "lost", **make_plan(store))
    store.delete(store.key(check.result.plan.statement.uri))
    await service.get(check.check_id)
    again = await service.finish(check.check_id)
    assert again.result.report_json == check.result.report_json
    assert await download(service, again, common_pb2.REPORT_FORMAT_DSSE)

    service.process.terminate()
    service.process.wait(90)
    signing_settings.clear()
    await service.start()
    assert (await service.get(check.check_id)).result.plan.outcome == PASSED
    with pytest.raises(PreconditionFailed, match="this deployment has no key") as caught:
        await service.create("unsigned", **make_plan(store))
    assert caught.value.reason == "NO_SIGNING_KEY"
    await service.create("unplanned", seed=5)


async def test_the_answer_of_a_creation_names_the_earlier_checks(service, store):
    unplanned = await service.create("unplanned", seed=5)
    fields = make_plan(store)
    check_id = await service.create("planned", seed=20, **fields)
    spec = (await service.get(check_id)).spec
    response = await service.checks.CreateCheck(alignment_pb2.CreateCheckRequest(check_id=check_id, spec=spec))
    assert [earlier.check_id for earlier in response.earlier_checks] == [unplanned]


async def test_a_plan_after_the_first_job_is_refused(service, store):
    check_id = await service.create("late", seed=5)
    await service.started(1)
    with pytest.raises(Conflict, match=f"{check_id}: the check exists with a different request: .* plan"):
        await service.create("late", seed=5, **make_plan(store))


async def test_a_plan_of_other_inputs_is_refused(service, store):
    fields = make_plan(store)
    fields["plan"].metric = "mean_dice"
    with pytest.raises(BadOption, match="is not the task's primary metric") as caught:
        await service.create("metric", **fields)
    assert caught.value.field == "spec.plan.metric"
    fields = make_plan(store)
    fields["plan"].model_sha256 = fields["model_sha256"] = "d" * 64
    with pytest.raises(PreconditionFailed, match="digest"):
        await service.create("digest", **fields)
