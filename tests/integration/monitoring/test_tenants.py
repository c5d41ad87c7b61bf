"""Two tenants of one monitoring service, with tokens: who may call what, and what another tenant has is not found."""

from __future__ import annotations

import numpy as np
import pytest
from tests.integration.monitoring.conftest import CHANNELS, LAYERS, ORIGIN, Service, draw, store_set
from tests.token_issuer import TokenIssuer

from vfmalign.client import AsyncClient, MonitorReference, MonitorSpec, Observation, ObservedStudy
from vfmalign.core.domain.errors import Forbidden, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.rpc.access.authorisation import ROLES
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import common_pb2, erasure_pb2, monitoring_pb2_grpc
from vfmalign.v1 import monitoring_pb2 as pb

TENANTS = ("default", "ward-7")
ISSUER = TokenIssuer("https://idp.example")
METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["MonitoringService"].methods}
READ = {"GetMonitor", "ListMonitors", "WatchMonitor", "GetMonitorReport"}
ERASE = {"ErasePatient", "GetErasure"}
CHANGE = {"AcknowledgeAlarm", "ReplaceReference", "UpdateMonitor", "PauseMonitor", "ResumeMonitor", "DeleteMonitor"}
ALLOWED = {
    "viewer": READ,
    "curator": READ,
    "admin": READ | CHANGE | ERASE,
    "researcher": READ | CHANGE | {"CreateMonitor", "Observe"},
    "router": {"Observe"},
    "features": {"Observe", "GetMonitor"},
    "mmd": set(),
    "finetuning": {"ListMonitors"},
    "monitoring": set(),
}
REFERENCE = pb.MonitorReference(feature_set_id="0" * 32)
SERVICE_ROLES = {"features", "mmd", "finetuning", "monitoring"}


@pytest.fixture
async def service(environment, tmp_path, python):
    environment = environment | {
        "VFMALIGN_AUTH__MODE": "oidc",
        "VFMALIGN_AUTH__ISSUERS": ISSUER.issuer,
        "VFMALIGN_AUTH__JWKS_FILE": str(ISSUER.write_jwks(tmp_path / "jwks.json")),
        "VFMALIGN_AUTH__TENANTS": ",".join(TENANTS),
    }
    service = await Service(environment, tmp_path, python).start()
    yield service
    await service.kill()


@pytest.fixture
async def sign_in(service):
    """Returns a client of somebody with these roles; a service names the tenant, and a person's token does."""
    clients = []

    def call(*roles, tenant="default", subject="ada"):
        claim = None if SERVICE_ROLES & set(roles) else tenant
        token = BearerToken(value=ISSUER.sign(*roles, tenant=claim, sub=subject))
        clients.append(AsyncClient(monitoring_address=service.address, token=token, tenant=tenant))
        return clients[-1].monitors

    yield call
    for client in clients:
        await client.close()


@pytest.fixture
async def open_stub(service):
    """Returns a stub of somebody with a role."""
    channels = []

    def call(role, tenant="default"):
        claim = None if role in SERVICE_ROLES else tenant
        channels.append(
            connect(service.address, token=BearerToken(value=ISSUER.sign(role, tenant=claim)), tenant=tenant)
        )
        return monitoring_pb2_grpc.MonitoringServiceStub(channels[-1])

    yield call
    for channel in channels:
        await channel.close()


def make_request(method, monitor_id):
    """A valid request of any RPC about a monitor."""
    if method == "ErasePatient":
        return erasure_pb2.ErasePatientRequest(erasure_id="e", group="o-g1", models=1, dry_run=True)
    if method == "GetErasure":
        return erasure_pb2.GetErasureRequest(erasure_id="absent")
    fields = {} if method == "ListMonitors" else {"monitor_id": monitor_id}
    if method == "CreateMonitor":
        fields["spec"] = pb.MonitorSpec(reference=REFERENCE)
    elif method == "Observe":
        fields |= {"origin": ORIGIN.to_proto(), "inline": pb.InlineObservations(observations=[make_observation()])}
    elif method == "AcknowledgeAlarm":
        fields["epoch"] = 1
    elif method == "ReplaceReference":
        fields |= {"epoch": 1, "reference": REFERENCE, "start": pb.EPOCH_START_RESET}
    elif method == "UpdateMonitor":
        fields["title"] = "t"
    elif method == "GetMonitorReport":
        fields["format"] = common_pb2.REPORT_FORMAT_JSON
    return getattr(pb, f"{method}Request")(**fields)


def make_observation(**layer):
    layer = layer or {"tensor": to_tensor(np.zeros(CHANNELS, np.float32))}
    return pb.Observation(study={"observation_id": "o", "group": "g"}, layers=[{"layer": LAYERS[0], **layer}])


async def send(stub, method, monitor_id):
    """Calls an RPC; returns its answer, or the first of a stream."""
    call = getattr(stub, method)(make_request(method, monitor_id))
    if METHODS[method].server_streaming:
        answer = await anext(aiter(call))
        call.cancel()
        return answer
    return await call


def observations(layers, prefix):
    return [
        Observation(
            ObservedStudy(observation_id=f"{prefix}-{row}", group=f"{prefix}-g{row}"),
            {name: array[row] for name, array in layers.items()},
        )
        for row in range(len(layers[LAYERS[0]]))
    ]


async def test_each_role_may_call_what_the_table_says(store, open_stub):
    assert set(ALLOWED) == ROLES
    for role, allowed in ALLOWED.items():
        stub = open_stub(role)
        for method in METHODS:
            refused = None
            try:
                await send(stub, method, "absent")
            except VfmalignError as error:
                refused = error
            if method not in allowed:
                assert isinstance(refused, Forbidden), (role, method, refused)
                assert refused.reason == "MISSING_ROLE"
            elif method in {"ListMonitors", "ErasePatient"}:
                assert refused is None, (role, refused)
            else:
                assert isinstance(refused, NotFound), (role, method, refused)


async def test_a_router_sends_features_and_names_no_stored_ones(sign_in, open_stub, store, reference):
    await sign_in("researcher").create("m", MonitorSpec(reference=MonitorReference(feature_set_id=reference)))
    router = open_stub("router")
    assert (await send(router, "Observe", "m")).results[0].row == 1
    stored = common_pb2.ObjectRef(uri=store.uri("features/x.safetensors"), sha256="0" * 64)
    by_reference = pb.InlineObservations(observations=[make_observation(stored=stored)])
    rows = pb.FeatureSetRows(feature_set_id=reference)
    for source in ({"inline": by_reference}, {"feature_set": rows}):
        with pytest.raises(Forbidden) as caught:
            await router.Observe(pb.ObserveRequest(monitor_id="m", origin=ORIGIN.to_proto(), **source))
        assert caught.value.reason == "MISSING_ROLE"


async def test_what_another_tenant_has_does_not_exist(sign_in, open_stub, reference):
    """For every RPC, with every role that may call it, the error is that of a monitor that nobody has."""
    owner = sign_in("researcher")
    await owner.create("m", MonitorSpec(reference=MonitorReference(feature_set_id=reference), alpha=0.05))
    await owner.observe("m", observations(draw(100, seed=2, shift=3.0), "o"), ORIGIN)
    before = await owner.get("m")
    assert before.epoch.alarm is not None
    for role, allowed in ALLOWED.items():
        stub = open_stub(role, "ward-7")
        for method in allowed - {"ListMonitors", "CreateMonitor"} - ERASE:
            messages = []
            for name in ("m", "n"):
                with pytest.raises(NotFound) as caught:
                    await send(stub, method, name)
                assert caught.value.subject == name
                messages.append((caught.value.message, caught.value.remedy, caught.value.reason))
            assert messages[0] == messages[1], (role, method)
        if "ErasePatient" in allowed:
            own = (await send(open_stub(role), "ErasePatient", "")).erasure
            assert [one.count for one in own.objects] == [1, 1]
            assert not (await send(stub, "ErasePatient", "")).erasure.objects
        if "ListMonitors" in allowed:
            assert not (await send(stub, "ListMonitors", "")).monitors
    theirs = sign_in("researcher", tenant="ward-7")
    with pytest.raises(NotFound, match=reference):
        await theirs.create("m", MonitorSpec(reference=MonitorReference(feature_set_id=reference)))
    assert await owner.get("m") == before


async def test_monitors_of_one_id_have_evidence_quota_and_objects_of_their_own(sign_in, store):
    seen = []
    for tenant, shift in zip(TENANTS, (0.0, 3.0), strict=True):
        own = store.of_tenant(tenant)
        feature_set = store_set(own, draw(90, seed=1), "same")
        client = sign_in("researcher", tenant=tenant)
        spec = MonitorSpec(reference=MonitorReference(feature_set_id=feature_set), alpha=0.05)
        await client.create("same", spec)
        results = await sign_in("features", tenant=tenant).observe(
            "same", observations(draw(80, seed=2, shift=shift), "o"), ORIGIN
        )
        assert not any(one.duplicate for one in results), "the ids of observations are the tenant's own"
        seen.append(await client.get("same"))
        assert len(list(own.list("monitors/same/"))) == 1
    assert [one.epoch.alarm is not None for one in seen] == [False, True]
    await sign_in("researcher", tenant=TENANTS[0]).delete("same")
    assert await sign_in("viewer", tenant=TENANTS[1]).get("same") == seen[1]
    assert len(list(store.of_tenant(TENANTS[1]).list("monitors/same/"))) == 1
    with pytest.raises(NotFound):
        await sign_in("viewer", tenant=TENANTS[0]).get("same")


async def test_the_creator_and_admins_change_a_monitor_and_other_researchers_do_not(sign_in, reference):
    owner, colleague, admin = (
        sign_in("researcher"),
        sign_in("researcher", subject="bob"),
        sign_in("admin", subject="eve"),
    )
    spec = MonitorSpec(reference=MonitorReference(feature_set_id=reference))
    assert (await owner.create("m", spec)).created_by == "https://idp.example#ada"
    assert (await colleague.create("m", spec)).created_by == "https://idp.example#ada", "a repetition changes nothing"
    assert [one.created_by for one in await admin.list()] == ["https://idp.example#ada"]
    assert not await sign_in("viewer", tenant="ward-7").list()
    other = MonitorReference(feature_set_id=reference)
    for call in (
        colleague.update("m", title="t"),
        colleague.pause("m"),
        colleague.resume("m"),
        colleague.delete("m"),
        colleague.replace_reference("m", 1, other, "reset"),
    ):
        with pytest.raises(Forbidden):
            await call
    with pytest.raises(PreconditionFailed, match="no alarm"):  # whoever is on call may acknowledge one
        await colleague.acknowledge("m", 1)
    assert (await owner.get("m")).state == "active"
    await colleague.observe("m", observations(draw(3, seed=4), "o"), ORIGIN)
    assert (await owner.update("m", title="t")).spec.title == "t"
    assert (await admin.update("m", title="u")).spec.title == "u"
    assert (await admin.pause("m")).state == "paused"
    await admin.delete("m")
    with pytest.raises(NotFound):
        await owner.get("m")


async def test_a_tenant_must_be_named_and_be_the_callers(service):
    for roles, claim, tenant, kind, reason in (
        (("features",), None, "", InvalidInput, "TENANT_REQUIRED"),
        (("features",), None, "ward-9", Forbidden, "WRONG_TENANT"),
        (("viewer",), "ward-7", "default", Forbidden, "WRONG_TENANT"),
        (("viewer",), None, "ward-7", Forbidden, "WRONG_TENANT"),
    ):
        token = BearerToken(value=ISSUER.sign(*roles, tenant=claim))
        async with AsyncClient(monitoring_address=service.address, token=token, tenant=tenant) as client:
            with pytest.raises(kind) as caught:
                await client.monitors.get("m")
        assert caught.value.reason == reason
