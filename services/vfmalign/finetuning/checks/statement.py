"""Last stage of a check with a plan: a signed statement about the report, which others can verify (docs/gates.md)."""

from __future__ import annotations

import asyncio
from typing import Any

from vfmalign.analysis.checks.gate_intervals import observe
from vfmalign.analysis.checks.records import CheckReport
from vfmalign.client.messages.checks import CheckPlan, PlanResult
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.core.domain.record import Record, canonical_json
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.keys import check_key
from vfmalign.finetuning.checks.artifacts import Outputs, Stage, StageContext, make_stage
from vfmalign.finetuning.checks.converters import to_result
from vfmalign.finetuning.checks.repository import ReportRefs
from vfmalign.finetuning.checks.signing import SignedStatement

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"


def statement_stage() -> Stage:
    """Returns the stage that signs the outcome of a check's plan."""
    return make_stage("statement", ("report",), _make, SignedStatement, "statement.dsse")


async def _make(context: StageContext, outputs: Outputs) -> Record:
    await context.set_status("signing the result")
    return await asyncio.to_thread(_sign, context, outputs.get("report", CheckReport))


def _sign(context: StageContext, report: CheckReport) -> SignedStatement:
    check, plan = context.check, context.check.request.plan
    if context.signer is None or plan is None or report.plan is None:
        raise no_signing_key(check.id)
    key = check_key(check.id, "report.json")
    written = StoredFile.of(key, context.store.get(key))
    observed = observe(to_result(report, ReportRefs(json_ref=written, html_ref=written), context.store))
    intervals = {
        name: {"lower": one.lower, "upper": one.upper, "level": one.level}
        for name, one in observed.items()
        if one.lower is not None
    }
    subject = _describe("report.json", written.sha256, check=check.id, tenant=context.store.tenant, intervals=intervals)
    settings, request = report.result.settings, check.request
    configuration = [
        _describe_plan(plan, report.plan),
        _describe("spec.json", request.digest()),
        _describe("model", settings["model_sha256"], id=request.model_id),
        _describe("dataset", settings["dataset_digest"], id=request.dataset_id),
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": report.plan.outcome.upper(),
            "configuration": configuration,
            "passedTests": list(report.plan.passed),
            "warnedTests": [f"declared before check {earlier.check_id}" for earlier in report.plan.earlier_checks],
            "failedTests": list(report.plan.failed),
        },
    }
    return context.signer.sign(canonical_json(statement))


def no_signing_key(check_id: str) -> PreconditionFailed:
    """Returns the error for a check with a plan in a deployment without a key."""
    return PreconditionFailed(
        "the result of a check with a plan is signed, but this deployment has no key",
        subject=check_id,
        remedy="ask an operator to set VFMALIGN_SIGNING__KEY_FILE",
        reason="NO_SIGNING_KEY",
    )


def _describe(name: str, sha256: str, **annotations: Any) -> dict[str, Any]:
    """Returns an in-toto resource descriptor."""
    descriptor = {"name": name, "digest": {"sha256": sha256}}
    return descriptor | ({"annotations": annotations} if annotations else {})


def _describe_plan(plan: CheckPlan, result: PlanResult) -> dict[str, Any]:
    declared = {"declared_at": result.declare_time.isoformat(), "declared_by": result.declared_by}
    return _describe("plan", result.plan_sha256, **plan.model_dump(mode="json"), **declared)
