"""PostgreSQL for the tests runs with the machine's programs where pgserver has no wheel."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
import pytest
from tests import postgres


def test_the_machine_s_programs_serve_until_the_block_ends() -> None:
    binaries = postgres.programs()
    if binaries is None:
        pytest.skip("this machine has no PostgreSQL. Run apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-") as folder:
        with postgres.serve_with(binaries, Path(folder)) as url, psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user, 1 + 1").fetchone() == ("postgres", 2)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)


def test_without_any_postgresql_there_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "load_pgserver", lambda: None)
    monkeypatch.setattr(postgres, "programs", lambda: None)
    with postgres.serve(tmp_path / "lock") as url:
        assert url is None
