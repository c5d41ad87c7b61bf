"""Every row of the table, sent to real services over a socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hostile.client import Services, running_services, store_inputs
from tests.hostile.row import Inputs, Row
from tests.hostile.table import ROWS

from vfmalign.core.storage.store.object_store import ObjectStore

LARGEST_GROWTH_MIB = 350.0
"""What five million short texts take once they are parsed, and the buffers of gRPC."""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, store_environment: dict[str, str]) -> Iterator[Services]:
    with running_services(store_environment, tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest.fixture(scope="module")
def inputs(store: ObjectStore, services: Services) -> Inputs:
    inputs = store_inputs(store)
    services.create_monitor(inputs)
    return inputs


def test_names_are_unique_and_there_are_many() -> None:
    names = Counter((row.rpc, row.name) for row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(ROWS) >= 80
    assert {row.code for row in ROWS}.isdisjoint({"INTERNAL", "UNKNOWN"})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rpc}: {row.name}")
def test_row(services: Services, inputs: Inputs, row: Row) -> None:
    answer = services.send(row, inputs)
    assert answer.code == row.code, answer
    assert row.names in answer.text
    assert answer.growth_mib < LARGEST_GROWTH_MIB
    assert services.answers(row.rpc)


def test_the_log_has_no_traceback_and_no_long_line(
    services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = Path(tmp_path_factory.getbasetemp()).glob("hostile*/services.log")
    lines = [line for path in log for line in path.read_text().splitlines()]
    assert [line[:2000] for line in lines if "Traceback" in line] == []
    assert max(map(len, lines)) < 20_000
