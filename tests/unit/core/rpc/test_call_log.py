"""What is logged of calls, and how much of those that fail in a loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vfmalign.core.domain.errors import NotFound, Unauthenticated
from vfmalign.core.rpc import call_log
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.rpc.call_log import LINES_PER_MINUTE, CallLog
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import LogSettings

METHOD = "vfmalign.v1.AlignmentService/GetCheck"
MISSING = NotFound("no such check", subject="c1", remedy="list them")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The lines since the last call."""
    logs.configure("test", LogSettings())
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture(autouse=True)
def caller() -> Iterator[None]:
    token = current_identity.set(Identity("ada-7", "https://login", frozenset(), frozenset({"viewer"})))
    yield
    current_identity.reset(token)


def test_a_failed_call_is_a_warning_with_caller_and_reason(lines) -> None:
    log = CallLog()
    log.log_call(METHOD, "OK", 0.1, None)
    log.log_call(METHOD, "NOT_FOUND", 0.1, MISSING)
    succeeded, failed = lines()
    assert (succeeded["level"], "subject" in succeeded, "reason" in succeeded) == ("info", False, False)
    assert (failed["level"], failed["subject"], failed["reason"]) == ("warning", "ada-7", "NOT_FOUND")
    assert failed["error"] == "NOT_FOUND", "the text may name a patient"


def test_a_flood_of_one_failure_is_bounded_and_hides_no_other(lines, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(call_log.time, "monotonic", lambda: now)
    log = CallLog()
    for _ in range(10 * LINES_PER_MINUTE):
        log.log_call(METHOD, "NOT_FOUND", 0.1, MISSING)
    assert len(lines()) == LINES_PER_MINUTE
    log.log_call(METHOD, "DEADLINE_EXCEEDED", 0.1, None)
    current_identity.set(Identity("bob", "https://login", frozenset(), frozenset()))
    log.log_call(METHOD, "NOT_FOUND", 0.1, MISSING)
    assert [(line["subject"], line["reason"]) for line in lines()] == [
        ("ada-7", "DEADLINE_EXCEEDED"),
        ("bob", "NOT_FOUND"),
    ]
    now += 61
    current_identity.set(Identity("ada-7", "https://login", frozenset(), frozenset()))
    for _ in range(2):
        log.log_call(METHOD, "NOT_FOUND", 0.1, MISSING)
    first, second = lines()
    assert (first["lines_left_out"], "lines_left_out" in second) == (9 * LINES_PER_MINUTE, False)


def test_anonymous_callers_cannot_fill_the_log_with_their_denials(lines) -> None:
    current_identity.set(None)
    log = CallLog()
    for _ in range(10 * LINES_PER_MINUTE):
        log.log_denial(METHOD, Unauthenticated("no token", remedy="send one", reason="NO_TOKEN"))
    denials = lines()
    assert len(denials) == LINES_PER_MINUTE
    assert {(line["event"], line["subject"]) for line in denials} == {("call_denied", "")}


def test_the_kinds_of_failures_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch, lines) -> None:
    monkeypatch.setattr(call_log, "_MAX_KINDS", 5)
    log = CallLog()
    for number in range(50):
        current_identity.set(Identity(f"user-{number}", "https://login", frozenset(), frozenset()))
        log.log_call(METHOD, "NOT_FOUND", 0.1, MISSING)
    assert len(lines()) == 50
    assert len(log._lines) <= 5
