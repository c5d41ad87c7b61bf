"""Limits of a piece of work, checked where it can stop."""

import asyncio
import time

import pytest

from vfmalign.core.domain.errors import Cancelled, DeadlineExceeded
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext


def test_work_goes_on_within_its_limits():
    UNLIMITED.checkpoint()
    WorkContext(deadline=time.monotonic() + 60.0, is_cancelled=lambda: False).checkpoint()


def test_a_deadline_stops_work_once_it_has_passed(monkeypatch):
    context = WorkContext(deadline=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    context.checkpoint()
    monkeypatch.setattr(time, "monotonic", lambda: 100.001)
    with pytest.raises(DeadlineExceeded, match="deadline passed"):
        context.checkpoint()


def test_a_cancellation_stops_work_at_the_next_checkpoint():
    cancelled = []
    context = WorkContext(is_cancelled=lambda: bool(cancelled))
    context.checkpoint()
    cancelled.append(1)
    with pytest.raises(Cancelled, match="cancelled before it was done"):
        context.checkpoint()


@pytest.mark.parametrize("end", [DeadlineExceeded("x"), asyncio.CancelledError()], ids=["deadline", "cancellation"])
def test_a_note_stays_where_the_call_ends_meanwhile(end):
    context = WorkContext()
    with pytest.raises(type(end)), context.waiting_for("queue: device"), context.waiting_for("pacs: archive"):
        raise end
    assert context.waits == ["queue: device", "pacs: archive"]


def test_a_note_ends_with_its_block():
    context = WorkContext()
    with context.waiting_for("queue: device"):
        assert context.waits == ["queue: device"]
    with pytest.raises(KeyError), context.waiting_for("queue: device"):
        raise KeyError
    assert context.waits == []


def test_work_outside_a_call_leaves_no_notes():
    """They would add up for as long as the process lives."""
    with pytest.raises(DeadlineExceeded), UNLIMITED.waiting_for("queue: device"):
        raise DeadlineExceeded("x")
    assert UNLIMITED.waits == []
