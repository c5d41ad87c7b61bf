"""Who may call what: every RPC × role × tenant through the interceptor, on a real server with trivial servicers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.token_issuer import bearer
from tests.unit.core.rpc.every_rpc import METHODS, REFLECTION, TENANTS, Api, serve_every_rpc

from vfmalign.core.domain.errors import BadOption, Forbidden
from vfmalign.core.rpc.access.authorisation import (
    PEOPLE,
    ROLES,
    RPC_ROLES,
    SERVICES,
    check_access,
    check_extraction,
    check_observation,
    check_ownership,
    choose_tenant,
)
from vfmalign.core.rpc.access.credentials import TENANT
from vfmalign.core.rpc.access.identity import Identity
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.settings import LogSettings

DOCUMENT = Path(__file__).parents[5] / "docs" / "security.md"
COMPUTE = "/vfmalign.v1.MmdService/Compute"


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert set(RPC_ROLES) == {*METHODS, *REFLECTION}


def test_the_documented_table_is_that_of_the_code() -> None:
    text = DOCUMENT.read_text().partition("### Who may call what")[2].partition("\n#")[0]
    documented: dict[str, set[str]] = {}
    for cells in re.findall(r"^\| (`.*) \|(.*)\|$", text, re.MULTILINE):
        names = re.findall(r"`(\w+)`", cells[0])
        roles = set(re.findall(r"`(\w+)`", cells[1])) or set(ROLES)  # "any role"
        documented |= dict.fromkeys(names, roles)
    assert documented == {path.rsplit("/")[-1]: set(roles) for path, roles in RPC_ROLES.items()}


def test_roles_are_those_of_people_and_of_services() -> None:
    assert set().union(*RPC_ROLES.values()) <= ROLES == {*PEOPLE, *SERVICES}


def identify(*roles: str, subject: str = "ada", tenants: Iterable[str] = ("default",)) -> Identity:
    return Identity(subject, "https://idp.example", frozenset(tenants), frozenset(roles))


def test_what_has_no_row_is_forbidden_to_everybody() -> None:
    with pytest.raises(Forbidden) as caught:
        check_access(identify(*ROLES), "/vfmalign.v1.MmdService/Steal")
    assert caught.value.reason == "MISSING_ROLE"


def test_a_call_acts_for_the_tenant_that_it_names_or_the_only_one() -> None:
    def choose(tenants: str, *named: str) -> str:
        metadata = [("x", "y"), *((TENANT, name) for name in named)]
        return choose_tenant(identify(tenants=tenants.split()), metadata, COMPUTE)

    assert (choose("a"), choose("a", "a"), choose("a b", "b")) == ("a", "a", "b")
    for tenants, named in (("", ()), ("", ("a",)), ("a", ("b",)), ("a b", ("c",)), ("a", ("",))):
        with pytest.raises(Forbidden) as forbidden:
            choose(tenants, *named)
        assert (forbidden.value.reason, forbidden.value.subject) == ("WRONG_TENANT", COMPUTE)
    for tenants, named in (("a b", ()), ("a b", ("a", "b")), ("a", ("a", "b"))):
        with pytest.raises(BadOption) as unclear:
            choose(tenants, *named)
        assert (unclear.value.reason, unclear.value.field) == ("TENANT_REQUIRED", TENANT)
        assert "VFMALIGN_TENANT" in unclear.value.remedy


def test_the_creator_and_admins_may_cancel() -> None:
    creator = identify("researcher")
    check_ownership(creator, creator.key, "job-1")
    check_ownership(identify("admin", subject="bob"), creator.key, "job-1")
    for other in (identify("researcher", subject="bob"), identify("viewer", "curator", subject="bob")):
        for created_by in (creator.key, ""):
            with pytest.raises(Forbidden) as caught:
                check_ownership(other, created_by, "job-1")
            assert caught.value.reason == "NOT_OWNER"


def test_a_router_sends_studies_at_a_pacs_and_observations_and_nothing_else() -> None:
    check_extraction(identify("router"), by_reference=True)
    check_extraction(identify("router", "researcher"), by_reference=False)
    check_extraction(None, by_reference=False)
    with pytest.raises(Forbidden, match="role router") as caught:
        check_extraction(identify("router"), by_reference=False)
    assert (caught.value.reason, "store_as" in caught.value.remedy) == ("MISSING_ROLE", True)
    paths = {path for path, roles in RPC_ROLES.items() if "router" in roles}
    allowed = {"/vfmalign.v1.FeatureService/Extract", "/vfmalign.v1.MonitoringService/Observe"}
    assert paths == {*allowed, *REFLECTION}


def test_a_router_observes_features_in_the_request_alone() -> None:
    for roles in (("router",), ("router", "viewer")):
        check_observation(identify(*roles), stored=False)
        with pytest.raises(Forbidden, match="role router") as caught:
            check_observation(identify(*roles), stored=True)
        assert (caught.value.reason, "tensors" in caught.value.remedy) == ("MISSING_ROLE", True)
    for caller in (identify("router", "researcher"), identify("features"), None):
        check_observation(caller, stored=True)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serve_every_rpc(tmp_path) as running:
        yield running


async def test_every_cell_behaves_as_the_table_says(api: Api) -> None:
    """Every RPC, role and tenant: the token's own, another one that is served, and one that is not."""
    cells: dict[tuple[str, str, str], tuple[str, str]] = {}
    expected: dict[tuple[str, str, str], tuple[str, str]] = {}
    for role in sorted(ROLES):
        token = api.issuer.sign(role, sub=role, tenant="ward-7")
        for path, allowed in RPC_ROLES.items():
            for tenant in ("", "ward-7", "default", "ward-9"):
                cells[role, path, tenant] = await api.call(path, token, tenant=tenant)
                verdict = ("OK", "") if role in allowed else ("PERMISSION_DENIED", "MISSING_ROLE")
                own = tenant in {"", "ward-7"}
                expected[role, path, tenant] = verdict if own else ("PERMISSION_DENIED", "WRONG_TENANT")
    assert cells == expected
    assert {(caller.subject, tenant) for caller, tenant in api.callers if caller} == {
        (role, "ward-7") for role in ROLES if any(role in RPC_ROLES[path] for path in METHODS)
    }


async def test_a_caller_of_several_tenants_names_one(api: Api) -> None:
    token = api.issuer.sign(*ROLES, tenant=["ward-7", "default", "ward-9"])
    for path in RPC_ROLES:
        assert await api.call(path, token) == ("INVALID_ARGUMENT", "TENANT_REQUIRED"), path
        assert await api.call(path, token, tenant="ward-9") == ("PERMISSION_DENIED", "WRONG_TENANT"), path
        for tenant in TENANTS:
            assert await api.call(path, token, tenant=tenant) == ("OK", ""), path
    assert [tenant for _, tenant in api.callers] == [*TENANTS] * len(METHODS)


async def test_a_service_calls_for_every_tenant(api: Api) -> None:
    token = api.issuer.sign("finetuning", sub="finetuning")
    for tenant in TENANTS:
        assert await api.call(COMPUTE, token, tenant=tenant) == ("OK", "")
    assert await api.call(COMPUTE, token) == ("INVALID_ARGUMENT", "TENANT_REQUIRED")
    assert await api.call(COMPUTE, token, tenant="ward-9") == ("PERMISSION_DENIED", "WRONG_TENANT")


async def test_no_rpc_admits_another_tenant_nobody_or_somebody_without_a_role(api: Api) -> None:
    foreign = api.issuer.sign(*ROLES, tenant="ward-9")
    for path in RPC_ROLES:
        assert await api.call(path, foreign) == ("PERMISSION_DENIED", "WRONG_TENANT"), path
        assert await api.call(path, foreign, tenant="ward-7") == ("PERMISSION_DENIED", "WRONG_TENANT"), path
        assert await api.call(path, api.issuer.sign()) == ("PERMISSION_DENIED", "MISSING_ROLE"), path
        assert await api.call(path) == ("UNAUTHENTICATED", "NO_TOKEN"), path
        assert await api.call(path, api.issuer.sign(*ROLES, aud="other")) == ("UNAUTHENTICATED", "WRONG_AUDIENCE")
    assert api.callers == []


async def test_anybody_may_ask_for_health_but_not_watch_it(api: Api) -> None:
    """A watching call would never end. UNIMPLEMENTED lets gRPC's own health checking go on without it."""
    stub: Any = health_pb2_grpc.HealthStub(api.channel)
    for metadata in ([], bearer("nonsense")):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="vfmalign.v1.MmdService"), metadata=metadata)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_is_refused_before_its_message_is_read(api: Api) -> None:
    """The message never becomes complete, so that a server which read it first would answer when its time is over."""
    call = api.channel.stream_unary(COMPUTE)(metadata=bearer(api.issuer.sign("viewer")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    garbage = b"\xff" * 1000
    assert await api.call(COMPUTE, None, garbage) == ("UNAUTHENTICATED", "NO_TOKEN")
    assert await api.call(COMPUTE, api.issuer.sign("researcher"), garbage) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


async def test_every_denial_is_logged_and_counted_without_the_token(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("test", LogSettings())

    def count(reason: str) -> float:
        labels = {"grpc_service": "vfmalign.v1.MmdService", "grpc_method": "Compute", "reason": reason}
        return metrics.REGISTRY.get_sample_value("vfmalign_calls_denied_total", labels) or 0.0

    expired = api.issuer.sign("admin", exp=1)
    viewer = api.issuer.sign("viewer", "router", sub="ada-7")
    of_several = api.issuer.sign("researcher", sub="cy", tenant=list(TENANTS))
    reasons = ("TOKEN_EXPIRED", "MISSING_ROLE", "TENANT_REQUIRED")
    before = [count(reason) for reason in reasons]
    capsys.readouterr()
    await api.call(COMPUTE, expired)
    await api.call(COMPUTE, viewer)
    await api.call(COMPUTE, of_several)
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    denials = [line for line in lines if line["event"] == "call_denied"]
    assert [(line["reason"], line["subject"], line["roles"], line["method"]) for line in denials] == [
        ("TOKEN_EXPIRED", "", [], "vfmalign.v1.MmdService/Compute"),
        ("MISSING_ROLE", "ada-7", ["router", "viewer"], "vfmalign.v1.MmdService/Compute"),
        ("TENANT_REQUIRED", "cy", ["researcher"], "vfmalign.v1.MmdService/Compute"),
    ]
    assert all(line["level"] == "warning" and line["request_id"] for line in denials)
    assert {(line["peer"], line["key_id"]) for line in denials} == {("ipv4:127.0.0.1", api.issuer.key_id)}
    for token in (expired, viewer, of_several):
        assert not any(part in text for part in token.split(".")[1:])
    assert [count(reason) for reason in reasons] == [one + 1 for one in before]


async def test_allowed_calls_are_counted_by_tenant_and_the_first_role_that_allows_them(api: Api) -> None:
    def count(role: str) -> float:
        labels = {"grpc_service": "vfmalign.v1.FineTuningService", "grpc_method": "ListJobs"}
        labels |= {"tenant": "default", "role": role}
        return metrics.REGISTRY.get_sample_value("vfmalign_calls_by_role_total", labels) or 0.0

    roles = ("viewer", "researcher", "admin", "mmd")
    before = {role: count(role) for role in roles}
    for token in (api.issuer.sign("admin", "researcher"), api.issuer.sign("viewer"), api.issuer.sign("mmd"), None):
        await api.call("/vfmalign.v1.FineTuningService/ListJobs", token)
    after = {role: count(role) - before[role] for role in roles}
    assert after == {"viewer": 1, "researcher": 1, "admin": 0, "mmd": 0}
