"""The service that commands of monitors call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.monitoring_service import Monitoring, serve
from tests.unit.cli.conftest import Invoke


@pytest.fixture
def monitoring() -> Monitoring:
    return Monitoring()


@pytest.fixture
def address(monitoring: Monitoring) -> Iterator[str]:
    yield from serve(monitoring)


@pytest.fixture
def run(invoke: Invoke, address: str, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command of `vfmalign monitors` on the service."""
    monkeypatch.setenv("VFMALIGN_MONITORING_ADDRESS", address)

    def call(*arguments: str) -> tuple[int, str, str]:
        code, out, err = invoke("monitors", *arguments)
        return code, out, " ".join(err.split())

    return call
