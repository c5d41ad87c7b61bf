"""PostgreSQL for the tests runs with the programs of pgserver, or of the machine where it has no wheel."""

from __future__ import annotations

import importlib.util

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
