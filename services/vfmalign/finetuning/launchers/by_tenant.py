"""Launcher for the jobs of one tenant. The jobs of two tenants may have the same id."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.finetuning.launchers.base import (
    UNKNOWN_ORIGIN,
    Confirm,
    Exited,
    Handle,
    Launcher,
    Origin,
    Running,
    lead_always,
)


@dataclass(frozen=True)
class TenantLauncher:
    """Passes calls on to a launcher, with job names that are unique among all tenants.

    Attributes:
        launcher: launcher that runs the jobs of all tenants.
        tenant: the tenant of these jobs. The name of a job of the tenant `default` is its id.
    """

    launcher: Launcher
    tenant: str

    def launch(
        self,
        job: str,
        attempt: int,
        spec_uri: str,
        confirm: Confirm = lead_always,
        *,
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> Running:
        """See `Launcher`."""
        origin = replace(origin, tenant=self.tenant)
        return self.launcher.launch(self._name(job), attempt, spec_uri, confirm, origin=origin)

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """See `Launcher`."""
        return self.launcher.observe(self._name(job), attempt, handle)

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """See `Launcher`."""
        self.launcher.stop(self._name(job), attempt, handle, force=force)

    def log_command(self, job: str, attempt: int) -> str:
        """See `Launcher`."""
        return self.launcher.log_command(self._name(job), attempt)

    def close(self) -> None:
        """Does nothing, because other tenants still use the launcher."""

    def _name(self, job: str) -> str:
        """Returns the name; ids of jobs contain no colon."""
        return job if self.tenant == DEFAULT_TENANT else f"{self.tenant}:{job}"
