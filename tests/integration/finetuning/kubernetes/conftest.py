"""An emulated cluster and launchers on it, as of successive orchestrators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import NAMESPACE, Api
from tests.integration.finetuning.kubernetes.rights import list_refused
from tests.integration.finetuning.kubernetes.world import World

from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.launcher import KubernetesLauncher
from vfmalign.finetuning.launchers.kubernetes.manifest import Options
from vfmalign.finetuning.schema import open_database

Make = Callable[..., KubernetesLauncher]


@pytest.fixture
def api() -> Iterator[Api]:
    """The API."""
    found = Api()
    yield found
    found.close()


@pytest.fixture
def connect(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Cluster]:
    """Connects to it as a process outside the cluster does."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
    return functools.partial(Cluster.connect, NAMESPACE)


@pytest.fixture
def make(api: Api, connect: Callable[[], Cluster]) -> Iterator[Make]:
    """Builds launchers."""
    made: list[KubernetesLauncher] = []

    def build(jobs_every_s: float = 0.0, **options: Any) -> KubernetesLauncher:
        made.append(KubernetesLauncher(connect(), Options(**options), jobs_every_s=jobs_every_s, pods_every_s=0.0))
        return made[-1]

    yield build
    for launcher in made:
        launcher.close()
    assert list_refused(api.launcher_requests(), NAMESPACE) == []


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, api: Api, make: Callable[..., Any]) -> Iterator[World]:
    """A cluster, a bucket and a database."""
    database = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    database.migrate()
    yield World(JobRepository(database), store, api, make)
    database.close()
