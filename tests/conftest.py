"""Fixtures that every test may use: S3 and PostgreSQL as real servers, a fresh bucket and an empty database on them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import settings
from tests import postgres

from vfmalign.cli.local import s3_server
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.object_store import ObjectStore

# A deadline would fail a property for the other work on its machine.
settings.register_profile("vfmalign", deadline=None)
settings.load_profile("vfmalign")
# Tests import every module there is: a quarter of that time would go into looking for garbage.
gc.disable()


# Long suites begin first, so that workers end together; within a suite the order stays.
SUITES = ("tests/e2e/", "tests/integration/training/", "tests/integration/", "tests/gpu/", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the suites."""
    items.sort(key=lambda item: next(rank for rank, suite in enumerate(SUITES) if item.nodeid.startswith(suite)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Says which tests share a worker, so that a server of several tests starts once.

    The end-to-end tests share one stack, and the tests of a file its fixtures. Those of `tests/integration/finetuning`
    start a service each and go wherever a worker is free. A scheduler of our own, as `xdist_group` marks of
    pytest-xdist 3.8 have no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Suites(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith("tests/e2e/"):
                return "tests/e2e"
            if nodeid.startswith("tests/integration/finetuning/test_"):
                return nodeid
            return nodeid.partition("::")[0]

    return Suites(config, log)


def pytest_collection_finish() -> None:
    """The collector is back when tests begin."""
    gc.enable()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A SeaweedFS process for the session."""
    process, server = s3_server.start(tmp_path_factory.mktemp("s3"))
    yield server
    s3_server.stop(process.pid, grace_s=0)
    process.wait()


@pytest.fixture(scope="module")
def store_settings(s3: s3_server.S3Server) -> StoreSettings:
    """Settings of a fresh bucket."""
    return StoreSettings(
        bucket=f"test-{uuid.uuid4().hex[:12]}",
        endpoint=s3.endpoint,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )


@pytest.fixture(scope="module")
def store(store_settings: StoreSettings) -> ObjectStore:
    """An object store on a fresh bucket."""
    result = ObjectStore(store_settings)
    result.ensure_bucket()
    return result


@pytest.fixture(scope="module")
def store_environment(s3: s3_server.S3Server, store_settings: StoreSettings) -> dict[str, str]:
    """The environment of a subprocess that shall use the same bucket."""
    return {**os.environ, **s3.environment(), "VFMALIGN_BUCKET": store_settings.bucket}


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the maintenance database of a real PostgreSQL server for the session."""
    base = tmp_path_factory.getbasetemp()
    with postgres.serve((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "postgres.lock") as url:
        if url is None:
            pytest.skip(f"no PostgreSQL: {postgres.REMEDY}")
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """URL of an empty PostgreSQL database."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """For tests that call a `main` in this process: logging and signal handlers are put back."""
    root = logging.getLogger()
    logs = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    structlog.reset_defaults()
    root.handlers, root.level = logs
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Reference material beside the repository; tests that need it skip where it is absent."""
    return Path(__file__).resolve().parents[2] / "shared"
