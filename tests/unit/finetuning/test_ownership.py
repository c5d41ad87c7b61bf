"""Who may cancel and retry what somebody created: over gRPC, with tokens, on a database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health
from tests.token_issuer import TokenIssuer, bearer

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import Exhausted, Forbidden, NotFound
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.jobs.converters import to_job
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, erasure_pb2

SPEC = CheckSpec(model_id="m", dataset_id="d", task="segmentation")
QUOTA = 3


@pytest.fixture
def checks(tmp_path: Path) -> Any:
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}")
    database.migrate()
    yield CheckRepository(database, QUOTA), JobRepository(database)
    database.close()


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer("vfmalign-local")


@pytest.fixture
async def stub(
    checks: Any,
    issuer: TokenIssuer,
    store: ObjectStore,
    store_settings: StoreSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Any]:
    monkeypatch.setattr("vfmalign.finetuning.checks.servicer.check_inputs", lambda *_: ())  # nothing is stored
    servicer = AlignmentServicer(
        *checks,
        store,
        delete=partial(Deletions(checks[0]._database, store).delete, "check"),
        erasures=make_erasures(checks[0]._database, store),
        wake=lambda: None,
        watching=Watching("finetuning", 1.0),
    )

    def add(server: grpc.aio.Server) -> list[Any]:
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(servicer, server)
        return [alignment_pb2.DESCRIPTOR.services_by_name["AlignmentService"]]

    auth = AuthSettings(mode="local", jwks_file=issuer.write_jwks(tmp_path / "jwks.json"))
    settings = ServiceSettings(store=store_settings, server=ServerSettings(grpc_port=0), auth=auth)
    async with AsyncExitStack() as resources:
        _, _, port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), resources)
        channel = await resources.enter_async_context(connect(f"127.0.0.1:{port}"))
        yield alignment_pb2_grpc.AlignmentServiceStub(channel)


async def create(stub: Any, check_id: str, token: str) -> None:
    request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=SPEC.to_proto())
    await stub.CreateCheck(request, metadata=bearer(token))


async def cancel(stub: Any, check_id: str, token: str) -> None:
    await stub.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=check_id), metadata=bearer(token))


async def retry(stub: Any, check_id: str, token: str) -> None:
    await stub.RetryCheck(alignment_pb2.RetryCheckRequest(check_id=check_id), metadata=bearer(token))


@pytest.mark.parametrize("change", [cancel, retry])
async def test_researchers_end_and_restart_their_own_checks_alone(
    stub: Any, checks: Any, issuer: TokenIssuer, change: Any
) -> None:
    ada, bob = (issuer.sign("researcher", sub=name) for name in ("ada", "bob"))
    await create(stub, "of-ada", ada)
    await create(stub, "of-ada", bob)  # the same request again returns the check, which stays ada's
    checks[0].create("of-the-service", SPEC)
    for check_id in ("of-ada", "of-the-service"):
        with pytest.raises(Forbidden) as caught:
            await change(stub, check_id, bob)
        assert caught.value.reason == "NOT_OWNER"
    assert {check.state for check in checks[0].active()} == {"queued"}
    await change(stub, "of-ada", issuer.sign("researcher", "viewer", sub="ada"))  # with a new token
    for check_id in ("of-ada", "of-the-service"):
        await change(stub, check_id, issuer.sign("admin", sub="eve"))
    with pytest.raises(NotFound):
        await change(stub, "none", bob)


async def test_checks_name_the_caller_who_asked_for_them(
    stub: Any, checks: Any, store: ObjectStore, issuer: TokenIssuer
) -> None:
    ada, bob = (issuer.sign("researcher", sub=name) for name in ("ada", "bob"))
    await create(stub, "of-ada", ada)
    await create(stub, "of-ada", bob)
    cell = checks[0].create("cell", SPEC, "vfmalign-local#ada")
    checks[0].create("cell", SPEC, "vfmalign-local#bob")
    checks[0].create("old", SPEC)
    expected = {"of-ada": "vfmalign-local#ada", "cell": "vfmalign-local#ada", "old": ""}
    listed = await stub.ListChecks(alignment_pb2.ListChecksRequest(), metadata=bearer(bob))
    assert {check.check_id: check.created_by for check in listed.checks} == expected
    for check_id, created_by in expected.items():
        response = await stub.GetCheck(alignment_pb2.GetCheckRequest(check_id=check_id), metadata=bearer(bob))
        assert response.check.created_by == created_by
    with pytest.raises(Forbidden):  # the experiment's creator cancels the experiment, and not a cell of it
        await cancel(stub, "cell", ada)

    job_spec = TrainingSpec(
        job_id="cell-pretrained", kind="finetune", dataset_id="d", dataset_digest="d" * 64, architecture="a",
        model_id="m", model_sha256="e" * 64, seed=0, publish_as="e",
        recipe=TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1),
    )  # fmt: skip
    job = checks[1].create(JobSpec(kind="finetune", dataset_id="d", model_id="m"), job_spec, "cell", "", cell.creator)
    shown = to_job(job, store)
    assert (shown.created_by, shown.dataset_digest, shown.model_sha256) == ("vfmalign-local#ada", "d" * 64, "e" * 64)
    response = await stub.GetCheck(alignment_pb2.GetCheckRequest(check_id="cell"), metadata=bearer(bob))
    assert (response.check.dataset_digest, response.check.model_sha256) == ("d" * 64, "e" * 64)
    assert not response.check.spec.dataset_digest


async def test_researchers_delete_their_own_checks_alone(stub: Any, checks: Any, issuer: TokenIssuer) -> None:
    async def delete(token: str) -> Any:
        return await stub.DeleteCheck(alignment_pb2.DeleteCheckRequest(check_id="of-ada"), metadata=bearer(token))

    ada, bob, eve = issuer.sign("researcher", sub="ada"), issuer.sign("researcher", sub="bob"), issuer.sign("admin")
    await create(stub, "of-ada", ada)
    await cancel(stub, "of-ada", ada)
    with pytest.raises(Forbidden) as caught:
        await delete(bob)
    assert caught.value.reason == "NOT_OWNER"
    for role in ("viewer", "curator", "router"):
        with pytest.raises(Forbidden):
            await delete(issuer.sign(role, sub="ada"))
    assert (await delete(ada)).deletion.objects == 0
    with pytest.raises(NotFound):
        await delete(eve)
    await create(stub, "of-bob", bob)
    await cancel(stub, "of-bob", bob)
    await stub.DeleteCheck(alignment_pb2.DeleteCheckRequest(check_id="of-bob"), metadata=bearer(eve))


async def test_only_admins_erase_patients_and_read_receipts(stub: Any, issuer: TokenIssuer) -> None:
    patient = {"erasure_id": "e1", "group": "p1", "models": erasure_pb2.MODEL_POLICY_KEEP}
    calls = (
        (stub.ErasePatient, erasure_pb2.ErasePatientRequest(**patient)),
        (stub.ErasePatient, erasure_pb2.ErasePatientRequest(**patient, dry_run=True)),
        (stub.GetErasure, erasure_pb2.GetErasureRequest(erasure_id="e1")),
    )
    for call, request in calls:
        for role in ("viewer", "researcher", "curator", "router", "features", "finetuning"):
            with pytest.raises(Forbidden):
                await call(request, metadata=bearer(issuer.sign(role)))
    eve = bearer(issuer.sign("admin", sub="eve"))
    receipts = [(await call(request, metadata=eve)).erasure for call, request in calls]
    assert [one.requested_by for one in receipts] == ["vfmalign-local#eve"] * 3
    assert receipts[0].HasField("complete_time")


async def test_the_creator_is_recorded_once(stub: Any, checks: Any, issuer: TokenIssuer) -> None:
    await create(stub, "a", issuer.sign("researcher", sub="ada"))
    assert checks[0].get("a").created_by == "vfmalign-local#ada"
    assert checks[0].create("b", SPEC).created_by == ""


async def test_a_caller_has_as_many_unfinished_checks_as_the_quota_allows(
    stub: Any, checks: Any, issuer: TokenIssuer
) -> None:
    ada, bob = (issuer.sign("researcher", sub=name) for name in ("ada", "bob"))
    for number in range(QUOTA):
        await create(stub, f"ada-{number}", ada)
    with pytest.raises(Exhausted) as caught:
        await create(stub, "ada-more", ada)
    assert "VFMALIGN_QUOTA__CHECKS" in caught.value.remedy
    await create(stub, "ada-0", ada)  # a request that is repeated
    await create(stub, "bob-0", bob)
    for number in range(QUOTA + 1):
        checks[0].create(f"of-the-service-{number}", SPEC)
    await cancel(stub, "ada-0", ada)
    await create(stub, "ada-more", ada)
    with pytest.raises(Exhausted):
        await retry(stub, "ada-0", ada)
    await retry(stub, "ada-1", ada)  # one that has not ended
    await cancel(stub, "ada-more", ada)
    await retry(stub, "ada-0", ada)
