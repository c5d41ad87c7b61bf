"""What tests of the launcher start, and how they look at it."""

from __future__ import annotations

from typing import Any

from tests.integration.finetuning.kubernetes.emulator import until

from vfmalign.finetuning.launchers.base import Exited, Running

URI = "s3://vfmalign/default/jobs/a/spec.json"
NAME = "vfmalign-a-1"


def running(launcher: Any, job: str = "a", attempt: int = 1) -> str:
    """What a job that has not ended waits for."""
    seen = launcher.observe(job, attempt, None)
    assert isinstance(seen, Running), seen
    return seen.message


def ended(launcher: Any, job: str = "a", attempt: int = 1, handle: dict | None = None) -> Exited:
    """How a job ended, once the list shows it."""
    return until(lambda: isinstance(seen := launcher.observe(job, attempt, handle), Exited) and seen)
