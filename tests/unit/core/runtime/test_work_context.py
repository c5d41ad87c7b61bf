"""Limits of a piece of work, checked where it can stop."""

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
