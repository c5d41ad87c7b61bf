"""Failed calls count for the side at fault."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from vfmalign.core.domain.errors import (
    BadOption,
    BadPacsAnswer,
    DataLoss,
    DeadlineExceeded,
    Exhausted,
    Internal,
    NotFound,
    PacsRefused,
    PacsUnavailable,
    PreconditionFailed,
    StoreUnavailable,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.rpc.call_metrics import Method
from vfmalign.core.rpc.limits.admission import ShareExhausted
from vfmalign.core.rpc.status_mapping import get_status_code
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.runtime.work_context import WorkContext, current_work

CASES: list[tuple[VfmalignError, str]] = [
    (Internal("x"), "server"),
    (Unavailable("x", reason="DRAINING"), "server"),
    (StoreUnavailable("x"), "server"),
    (DataLoss("x"), "server"),
    (Exhausted("x", reason="QUEUE_FULL"), "server"),
    (Exhausted("x", reason="REQUESTS_EXHAUSTED"), "server"),
    (ShareExhausted("x", reason="REQUESTS_EXHAUSTED"), "caller"),
    (Exhausted("its creator has 200 unfinished jobs, and the quota is 200"), "caller"),
    (Exhausted("x", reason="TOO_MANY_CALLS"), "caller"),
    (BadOption("x"), "caller"),
    (DeadlineExceeded("the computation takes longer than its caller waits"), "caller"),
    (NotFound("there is no such bucket", reason="BUCKET_NOT_FOUND"), "server"),
    (PreconditionFailed("x", reason="WRONG_REGION"), "server"),
    (NotFound("x"), "caller"),
    (PreconditionFailed("x"), "caller"),
    (PacsUnavailable("x"), "pacs"),
    (PacsRefused("x"), "pacs"),
    (BadPacsAnswer("x"), "pacs"),
]


@pytest.fixture
def method() -> Method:
    return Method.create("test.Kitchen", "Roast", "unary")


@pytest.fixture
def waiting() -> Iterator[WorkContext]:
    context = WorkContext()
    token = current_work.set(context)
    yield context
    current_work.reset(token)


def count(fault: str, reason: str) -> float:
    labels = {"grpc_service": "test.Kitchen", "grpc_method": "Roast", "fault": fault, "reason": reason}
    return REGISTRY.get_sample_value("vfmalign_calls_failed_total", labels) or 0.0


def count_ended(fault: str) -> float | None:
    labels = {"grpc_service": "test.Kitchen", "grpc_method": "Roast", "fault": fault}
    return REGISTRY.get_sample_value("vfmalign_calls_ended_total", labels)


@pytest.mark.parametrize(("failure", "fault"), CASES, ids=lambda one: getattr(one, "reason", one))
def test_a_failure_has_the_fault_of_one_side(failure: VfmalignError, fault: str, method: Method) -> None:
    before = {one: count(one, failure.reason) for one in ("server", "pacs", "caller")}
    method.account(get_status_code(failure), 1.0, failure)
    after = {one: count(one, failure.reason) for one in before}
    assert {one: after[one] - before[one] for one in before} == dict.fromkeys(before, 0) | {fault: 1}


@pytest.mark.parametrize(
    ("waits", "fault"), [(["queue: mmd"], "server"), (["queue: studies", "pacs: archive"], "pacs"), ([], "caller")]
)
def test_a_deadline_is_the_server_s_fault_where_the_call_waited_for_it(
    waits: list[str], fault: str, method: Method, waiting: WorkContext
) -> None:
    waiting.waits.extend(waits)
    before = count(fault, "DEADLINE_EXCEEDED")
    method.account(grpc.StatusCode.DEADLINE_EXCEEDED, 1.0, None)
    assert count(fault, "DEADLINE_EXCEEDED") == before + 1


@pytest.mark.parametrize(("time_limit_s", "fault"), [(1.9, "caller"), (2.0, "server"), (None, "server")])
def test_a_deadline_that_was_too_short_is_the_caller_s_fault(
    time_limit_s: float | None, fault: str, method: Method, waiting: WorkContext
) -> None:
    waiting.waits.append("queue: mmd")
    reason = "SHORT_DEADLINE" if fault == "caller" else "DEADLINE_EXCEEDED"
    before, ended = count(fault, reason), count_ended(fault)
    method.account(grpc.StatusCode.DEADLINE_EXCEEDED, 1.9, None, time_limit_s)
    assert (count(fault, reason), count_ended(fault)) == (before + 1, (ended or 0) + 1)


def test_a_short_deadline_does_not_hide_a_slow_pacs(method: Method, waiting: WorkContext) -> None:
    waiting.waits.append("pacs: archive")
    before = count("pacs", "DEADLINE_EXCEEDED")
    method.account(grpc.StatusCode.DEADLINE_EXCEEDED, 0.5, None, 0.5)
    assert count("pacs", "DEADLINE_EXCEEDED") == before + 1


def test_a_short_deadline_does_not_excuse_other_failures(method: Method) -> None:
    before = count("server", "UNAVAILABLE")
    method.account(grpc.StatusCode.UNAVAILABLE, 0.1, Unavailable("x"), 0.5)
    assert count("server", "UNAVAILABLE") == before + 1


def test_a_cancelled_call_is_the_caller_s_fault_whatever_it_waited_for(method: Method, waiting: WorkContext) -> None:
    waiting.waits.extend(["queue: studies", "pacs: archive"])
    before = count("caller", "CANCELLED")
    method.account(grpc.StatusCode.CANCELLED, 1.0, None)
    assert count("caller", "CANCELLED") == before + 1


def test_every_call_that_ends_has_one_fault_or_none(method: Method) -> None:
    faults = ("none", "server", "pacs", "caller")
    before = [count_ended(fault) for fault in faults]
    assert None not in before, "the first failure of a series that begins with it is not seen by a rate"
    for failure in (None, None, Unavailable("x"), PacsRefused("x"), BadOption("x")):
        method.account(grpc.StatusCode.OK if failure is None else get_status_code(failure), 1.0, failure)
    assert [(count_ended(fault) or 0) - (one or 0) for fault, one in zip(faults, before, strict=True)] == [2, 1, 1, 1]


def test_a_call_that_succeeds_is_no_failure(method: Method) -> None:
    def total() -> float:
        families = [one for one in REGISTRY.collect() if one.name == "vfmalign_calls_failed"]
        return sum(sample.value for family in families for sample in family.samples)

    before = total()
    method.account(grpc.StatusCode.OK, 1.0, None)
    assert total() == before


def test_failures_of_the_server_are_exported_from_zero_on() -> None:
    Method.create("test.Garden", "Dig", "unary")
    for reason in ("INTERNAL", "STORE_UNAVAILABLE", "STORE_FAILING", "QUEUE_FULL", "DEADLINE_EXCEEDED"):
        labels = {"grpc_service": "test.Garden", "grpc_method": "Dig", "fault": "server", "reason": reason}
        assert REGISTRY.get_sample_value("vfmalign_calls_failed_total", labels) == 0
