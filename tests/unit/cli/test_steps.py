"""An order to end is obeyed even where something swallows the exception that it raises."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from vfmalign.cli import steps


def test_a_swallowed_sigterm_ends_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_told_to_end", threading.Event())
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    clock = steps.Clock()
    try:
        steps.end_as_interrupted()
        with clock.step("quiet"):
            pass
        with pytest.raises(KeyboardInterrupt), clock.step("disturbed"), contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(clock.seconds) == {"quiet", "disturbed"}
