"""An order to end is obeyed even where something swallows the exception that it raises."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from vfmalign.cli.demo import steps


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handlers and hook of a command that ends as told, and those of the test run again afterwards."""
    monkeypatch.setattr(steps, "_shutdown_requested", threading.Event())
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        steps.handle_sigterm_as_interrupt()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.usefixtures("obedient")
def test_a_swallowed_sigterm_ends_the_step() -> None:
    stopwatch = steps.Stopwatch()
    with stopwatch.step("quiet"):
        pass
    with pytest.raises(KeyboardInterrupt), stopwatch.step("disturbed"), contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert set(stopwatch.seconds) == {"quiet", "disturbed"}


@pytest.mark.usefixtures("obedient")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_finaliser_ends_the_step_without_a_word(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    class Finalised:
        pass

    subject = Finalised()
    _kept = weakref.ref(subject, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt), steps.Stopwatch().step("disturbed"):
        del subject
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("obedient")
def test_other_errors_of_finalisers_are_still_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Finalised:
        def __del__(self) -> None:
            raise ValueError("a mistake of ours")

    Finalised()
    assert "a mistake of ours" in capsys.readouterr().err
