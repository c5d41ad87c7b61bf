"""Fixtures for all tests: real S3 and PostgreSQL servers, with an empty bucket per module and a database per test."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, settings
from tests import log_guard, postgres, preloaded, process_guard, shared_s3

from vfmalign.cli.local.s3_server import S3Server
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.runtime.work_context import UNLIMITED, current_work
from vfmalign.core.storage.store.object_store import ObjectStore

# A deadline and the check of how fast examples are drawn would fail property tests on a busy machine.
settings.register_profile("vfmalign", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vfmalign")
# Collection imports every module; garbage collection would take a quarter of that time.
gc.disable()


# The slowest suites start first, so that the workers finish together. The order within a suite is unchanged.
SUITES = (
    "tests/containers/stack/",
    "tests/e2e/",
    "tests/tutorials/",
    "tests/faults/stack/",
    "tests/faults/local/",
    "tests/hostile/test_hostile",
    "tests/faults/",
    "tests/pacs/",
    "tests/integration/training/",
    "tests/integration/",
    "tests/gpu/",
    "",
)
TOGETHER = (
    "tests/containers/stack/",
    "tests/e2e/",
    "tests/faults/stack/",
    "tests/pacs/",
    "tests/unit/reports/experiments/",
    "tests/unit/imaging/phantoms/",
)
"""Suites that run on one worker each, because their tests share what is expensive."""
ONE_BY_ONE = (
    "tests/integration/finetuning/test_",
    "tests/faults/finetuning/",
    "tests/faults/test_two_orchestrators.py",
)
"""Suites whose tests run on any free worker, because each starts its own services."""


def pytest_configure(config: pytest.Config) -> None:
    """Lets all processes that the tests start end with this one, and lets each worker begin with files of its own."""
    config.add_cleanup(process_guard.start().communicate)
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and all(Path(argument).is_dir() for argument in config.args):
        # A first run compiles every file, which workers would do side by side if they began with the same one.
        found = [str(file) for folder in config.args for file in sorted(Path(folder).rglob("test_*.py"))]
        files = list(dict.fromkeys(found))
        begin = len(files) * int(worker.removeprefix("gw")) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        config.args = files[begin:] + files[:begin]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests by suite and file, the same in every worker."""
    items.sort(
        key=lambda item: (
            next(rank for rank, suite in enumerate(SUITES) if item.nodeid.startswith(suite)),
            item.path.parts,
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps tests with expensive shared fixtures on one worker.

    Beside `TOGETHER` and `ONE_BY_ONE`, the tests of a file share its module fixtures. This is a scheduler, because the
    `xdist_group` marks of pytest-xdist 3.8 have no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Suites(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(ONE_BY_ONE):
                return nodeid
            for suite in TOGETHER:
                if nodeid.startswith(suite):
                    return suite
            return nodeid.partition("::")[0]

    return Suites(config, log)


def pytest_collection_finish() -> None:
    """Enables garbage collection again for the tests, and leaves out the modules, which stay."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or triton reports its objects as leaks when the process ends
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _stacks_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Records stacks that tests start in a folder of the run, not in the user's. No log may name a patient."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        yield
    lines = log_guard.find_patient_lines(tmp_path_factory.getbasetemp())
    assert not lines, f"{len(lines)} lines of service logs name patients, such as {lines[0]}"


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests() -> Iterator[None]:
    """Fails a test that leaves limits of its work behind, of which the next tests of this worker would fail."""
    yield
    work = current_work.get()
    current_work.set(UNLIMITED)
    assert work is UNLIMITED, "use `work_within` outside of a task"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    """Returns a SeaweedFS server that all workers share, each module with a bucket of its own."""
    return shared_s3.start(get_run_folder(tmp_path_factory))


def get_run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that all workers of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="module")
def store_settings(s3: S3Server) -> StoreSettings:
    """Returns settings with a new bucket name."""
    return StoreSettings(
        bucket=f"test-{uuid.uuid4().hex[:12]}",
        endpoint=s3.endpoint,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )


@pytest.fixture(scope="module")
def store(store_settings: StoreSettings) -> ObjectStore:
    """Returns an object store with a new bucket."""
    result = ObjectStore(store_settings)
    result.ensure_bucket()
    return result


@pytest.fixture(scope="module")
def store_environment(s3: S3Server, store_settings: StoreSettings) -> dict[str, str]:
    """Returns the environment for a subprocess that uses the same bucket."""
    return {**os.environ, **s3.environment(), "VFMALIGN_BUCKET": store_settings.bucket}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Starts a PostgreSQL server for the session and returns the URL of its maintenance database."""
    with postgres.serve() as url:
        if url is None:
            pytest.skip(f"no PostgreSQL: {postgres.REMEDY}")
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """Creates an empty PostgreSQL database and returns its URL."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def python_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the socket of the server that forks Python interpreters which have imported torch."""
    return preloaded.start_server(get_run_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def python(python_server: Path) -> Callable[..., preloaded.PreloadedPython]:
    """Returns what starts a Python interpreter that has imported torch; takes the arguments of `subprocess.Popen`."""
    return partial(preloaded.PreloadedPython, python_server)


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """Restores logging and signal handlers after a test that calls a `main` function in this process."""
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
    """Returns the folder of reference material beside the repository; tests that need it skip without it."""
    return Path(__file__).resolve().parents[2] / "shared"
