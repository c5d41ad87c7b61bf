"""`vfmalign up`: a stack that is interrupted as it starts leaves no process."""

from pathlib import Path

import pytest

from vfmalign.cli.commands.setup import stack as commands


@pytest.mark.usefixtures("process_as_before")
def test_an_interrupt_as_the_start_returns_stops_the_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    class Interrupted:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def start(self) -> None:
            raise KeyboardInterrupt

        def stop(self) -> None:
            calls.append("stop")

    monkeypatch.setattr(commands, "Stack", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        commands.up(tmp_path / "home")
    assert calls == ["stop"]
