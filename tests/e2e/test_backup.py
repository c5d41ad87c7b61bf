"""A backup of a stack at work is restored beside it: check and monitor go on to the same results as there."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from tests.e2e.conftest import MODEL, PHANTOMS, TIMEOUT_S, World
from tests.faults.stack.test_kills import same_numbers
from tests.integration.cli.commands import suspended, wait_until
from tests.monitored_model import store_reference
from tests.preloaded import get_command

from vfmalign.cli.local import backup
from vfmalign.cli.local.environment import get_small_network_settings
from vfmalign.cli.local.ports import PortChoice
from vfmalign.cli.local.restore import restore
from vfmalign.cli.local.stack import SERVICES, Stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.client import Client, MonitorReference, MonitorSpec, ObservedStudy
from vfmalign.client.messages.features import StudyObservation
from vfmalign.client.messages.monitors import Monitor
from vfmalign.core.storage.keys import OUTBOX
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.tables import ObservationRow
from vfmalign.v1 import alignment_pb2

LAYER, MONITOR, CHECK = "stages.3", "backed-up", "backed-up"
RECORDED, WAITING, ALL = 12, 5, 30
"""Observations that are recorded before the backup, that wait in the outbox during it, and that are sent at all."""


class Stream:
    """A stream of observations to the monitor of a stack, through Extract."""

    def __init__(self, world: World, client: Client) -> None:
        self._world, self._client = world, client
        self._studies = [
            {kind: encode(volumes[kind]) for kind in ("t2w", "dwi", "adc")}
            for volumes in (generate_case(5, case, PHANTOMS).volumes for case in range(3))
        ]

    def create_monitor(self) -> None:
        center_C = self._client.features.extract(MODEL, self._studies[0], layers=[LAYER]).layers[LAYER]
        store = self._world.store
        reference = store_reference(store, load_card(store, MODEL), LAYER, center_C)
        spec = MonitorSpec(reference=MonitorReference(feature_set_id=reference))
        self._client.monitors.create(MONITOR, spec)

    def send(self, start: int, stop: int) -> None:
        for number in range(start, stop):
            study = ObservedStudy(observation_id=f"o-{number}", group=f"g-{number}")
            observation = StudyObservation(monitor_id=MONITOR, study=study)
            volumes = self._studies[number % len(self._studies)]
            answer = self._client.features.extract(MODEL, volumes, layers=[LAYER], observation=observation)
            assert answer.observation.delivery == "queued", answer.observation

    def list_waiting(self) -> list[str]:
        return list(self._world.store.list(f"{OUTBOX}{MONITOR}/"))

    def list_states(self) -> list[str]:
        return list(self._world.store.list(f"monitors/{MONITOR}/"))

    def empty_outbox(self) -> None:
        wait_until(lambda: not self.list_waiting(), "the delivery of all observations")

    def read_rows(self) -> list[tuple[Any, ...]]:
        """What is recorded of each observation, in the order of arrival."""
        database = open_database(f"sqlite:///{self._world.home.service_state / 'monitoring.db'}")
        row = ObservationRow
        columns = (row.sequence, row.observation_id, row.outcome, row.row, row.p_value)
        with database.snapshot() as session:
            query = sa.select(*columns).where(row.monitor_id == MONITOR).order_by(row.sequence)
            rows = [tuple(one) for one in session.execute(query)]
        database.close()
        return rows

    def get_monitor(self) -> Monitor:
        return self._client.monitors.get(MONITOR)


@contextmanager
def observing(world: World) -> Iterator[Stream]:
    state = world.stack.get_state()
    addresses = {f"{name}_address": state.services[name].ports.address for name in SERVICES}
    with Client(**addresses, token=state.token_file.read_text().strip()) as client:
        yield Stream(world, client)


@contextmanager
def running(home: StateDirectory, python_server: Path) -> Iterator[World]:
    """Runs a restored stack beside the one that was copied, on other ports."""
    settings = {
        **get_small_network_settings(),
        "VFMALIGN_LAUNCHER__COMMAND": json.dumps(get_command(python_server, ["-m", "vfmalign.training"])),
        "VFMALIGN_MONITORING__SNAPSHOT_ROWS": "5",  # so that the restored states are replaced
    }
    events: list[str] = []
    stack = Stack(home, events.append, settings, port_choice=PortChoice(any=True))
    supervisor = threading.Thread(target=stack.supervise)
    try:
        state = stack.start()
        supervisor.start()
        yield World(home, stack, ObjectStore(state.store.to_settings()), events)
    finally:
        stack.request_stop()
        if supervisor.is_alive():
            supervisor.join()
        stack.stop()


@pytest.mark.timeout(3 * TIMEOUT_S)
def test_a_restored_stack_goes_on_as_the_undisturbed_one(
    world: World, undisturbed: Any, python_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, home = tmp_path / "stack.tar", StateDirectory(tmp_path / "restored")
    add_database = backup._add_database

    def observe_meanwhile(writer: Any, directory: StateDirectory, name: str) -> None:
        """Sends observations when the first database has been copied."""
        add_database(writer, directory, name)
        if name == backup.MONITORING_DB:
            states = stream.list_states()
            stream.send(RECORDED, RECORDED + WAITING)
            time.sleep(1.0)  # a delivery would take a fraction of it
            assert len(stream.read_rows()) == RECORDED
            assert (len(stream.list_waiting()), stream.list_states()) == (WAITING, states)

    monkeypatch.setattr(backup, "_add_database", observe_meanwhile)
    with observing(world) as stream:
        stream.create_monitor()
        stream.send(0, RECORDED)
        stream.empty_outbox()
        world.create(CHECK)
        world.wait_for(CHECK, lambda check: check.progress.unit == "epoch" and check.progress.done)
        # On a busy machine, the check might end meanwhile; its training goes on.
        with suspended(psutil.Process(world.pid("finetuning"))):
            assert backup.back_up(world.home, file, backup.list_secrets(world.home), print, lambda *_: None)
        assert world.get(CHECK).state == alignment_pb2.CHECK_STATE_RUNNING, "the check ended before its backup"
        stream.send(RECORDED + WAITING, ALL)
        stream.empty_outbox()
        rows, monitor = stream.read_rows(), stream.get_monitor()
    assert [row[1] for row in rows] == [f"o-{number}" for number in range(ALL)]
    with tarfile.open(file) as archive:
        names = archive.getnames()
    assert len([name for name in names if name.startswith(f"bucket/{OUTBOX}{MONITOR}/")]) == WAITING
    check = world.finish(CHECK)
    assert same_numbers(check, undisturbed)

    restore(home, file, print, lambda *_: None)
    with running(home, python_server) as restored, observing(restored) as stream:
        stream.empty_outbox()
        assert stream.read_rows() == rows[: RECORDED + WAITING], "the waiting observations follow the recorded ones"
        stream.send(0, ALL)  # a sender that does not know what the backup holds sends everything again
        stream.empty_outbox()
        assert stream.read_rows() == rows
        again = stream.get_monitor()
        assert [one.log_evidence for one in again.components] == [one.log_evidence for one in monitor.components]
        assert (again.outcomes["entered"], again.epoch.rows) == (ALL, ALL)
        found = restored.finish(CHECK)
        assert found.state == alignment_pb2.CHECK_STATE_SUCCEEDED, found.failure
        assert same_numbers(found, undisturbed)
