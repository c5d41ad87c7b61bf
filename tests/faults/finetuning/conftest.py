"""The finetuning service as a process of its own, as in its other tests."""

from tests.integration.finetuning.conftest import (
    database_url,
    job_command,
    launcher_settings,
    peers,
    service,
    signing_settings,
    stored,
)

__all__ = ["database_url", "job_command", "launcher_settings", "peers", "service", "signing_settings", "stored"]
