"""PostgreSQL for the tests runs with the programs of pgserver, or of the machine where it has no wheel."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest
from tests import postgres


@pytest.fixture
def without_pgserver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("without_pgserver")
def test_the_machine_s_programs_serve_until_the_block_ends() -> None:
    with postgres.serve() as url:
        if url is None:
            pytest.skip("this machine has no PostgreSQL. Run apt-get install postgresql")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user, 1 + 1").fetchone() == ("postgres", 2)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


@pytest.mark.usefixtures("without_pgserver")
def test_without_any_postgresql_there_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_has_programs", lambda _: False)
    with postgres.serve() as url:
        assert url is None


def test_programs_of_a_private_folder_run_as_another_account(tmp_path: Path) -> None:
    wheel = importlib.util.find_spec("pgserver")
    if wheel is None or wheel.origin is None:
        pytest.skip("this Python has no pgserver")
    packages, private = Path(wheel.origin).parents[1], tmp_path / "private"
    for name in ("pgserver/pginstall", "pgserver.libs"):
        shutil.copytree(packages / name, private / name)
    private.chmod(0o700)
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-") as folder:
        server = postgres.PostgresServer(private / "pgserver/pginstall/bin", Path(folder))
        psycopg.connect(server.url).close()
        server.stop()
