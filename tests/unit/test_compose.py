"""Compose gives servers the time that they need to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vfmalign.core.runtime.settings import ServerSettings
from vfmalign.finetuning.settings import LauncherSettings

COMPOSE: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parents[2] / "deploy/compose.yaml").read_text())


def get_grace_s(service: str) -> float:
    """Returns the seconds between SIGTERM and SIGKILL; Compose waits for 10 s by default."""
    return float(COMPOSE["services"][service].get("stop_grace_period", "10s").removesuffix("s"))


def test_servers_have_time_to_drain() -> None:
    drain_s = ServerSettings().drain_s
    for service in ("features", "mmd", "monitoring"):
        assert get_grace_s(service) > drain_s
    # Afterwards the orchestrator gives its training processes time for a checkpoint, and waits 30 s for those it kills.
    assert get_grace_s("finetuning") > drain_s + LauncherSettings().stop_grace_s + 30
