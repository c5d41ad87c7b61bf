"""Launchers by their name in the settings."""

from __future__ import annotations

from collections.abc import Callable

from vfmalign.finetuning.launchers.base import Launcher
from vfmalign.finetuning.launchers.local import LocalLauncher, get_lock_dir
from vfmalign.finetuning.settings import FinetuningSettings


def _local(settings: FinetuningSettings, scope: str) -> Launcher:
    return LocalLauncher(settings.job_command, get_lock_dir(scope), settings.state_dir / "logs")


def _kubernetes(settings: FinetuningSettings, scope: str) -> Launcher:
    # Imported here because the Kubernetes client is slow to import and not needed for local jobs.
    from vfmalign.finetuning.launchers.kubernetes.api import Cluster
    from vfmalign.finetuning.launchers.kubernetes.launcher import KubernetesLauncher
    from vfmalign.finetuning.launchers.kubernetes.manifest import Options

    chosen = settings.launcher
    options = Options(
        template=chosen.pod_template,
        queue=chosen.queue,
        active_deadline_s=chosen.active_deadline_s,
        ttl_s=chosen.ttl_s,
        nodes=chosen.nodes,
        processes_per_node=chosen.processes_per_node,
    )
    return KubernetesLauncher(Cluster.connect(chosen.namespace), options)


LAUNCHERS: dict[str, Callable[[FinetuningSettings, str], Launcher]] = {"local": _local, "kubernetes": _kubernetes}
"""Each factory takes the settings and the scope of the database (`database.lease.get_scope`)."""
