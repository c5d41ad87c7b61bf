"""What the leader adds: windowed MMD² by the real MMD service, metrics, and the deletion of features."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import load
from tests.integration.monitoring.conftest import LAYERS, Service, draw, rows_of, store_set

from vfmalign.mmd import mmd_test
from vfmalign.monitoring.tables import InputRow, MonitorRow


@pytest.fixture
async def mmd(store_environment, python, tmp_path):
    """`python -m vfmalign.mmd`, which can be killed and started again on its port."""

    class Mmd:
        port = 0

        async def start(self):
            ports = tmp_path / "mmd.json"
            ports.unlink(missing_ok=True)
            environment = store_environment | {
                "VFMALIGN_SERVER__GRPC_PORT": str(self.port),
                "VFMALIGN_SERVER__METRICS_PORT": "0",
                "VFMALIGN_SERVER__HEALTH_PORT": "0",
                "VFMALIGN_SERVER__PORTS_FILE": str(ports),
                "VFMALIGN_MMD__DEVICE": "cpu",
                "OMP_NUM_THREADS": "1",
            }
            self.process = python([sys.executable, "-m", "vfmalign.mmd"], env=environment)
            for _ in range(600):
                if ports.exists():
                    break
                await asyncio.sleep(0.1)
            self.port = json.loads(ports.read_text())["grpc"]

        def kill(self):
            if self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGKILL)
                self.process.wait(60)

    mmd = Mmd()
    await mmd.start()
    yield mmd
    mmd.kill()


@pytest.fixture
async def service(environment, mmd, tmp_path, python):
    environment = environment | {"VFMALIGN_MMD_ADDRESS": f"127.0.0.1:{mmd.port}"}
    service = await Service(environment, tmp_path, python).start()
    yield service
    assert await service.kill(signal.SIGTERM) in {0, -signal.SIGKILL}


async def until(get, condition, seconds=60.0):
    """Waits until what `get` returns meets a condition, and returns it."""
    async with asyncio.timeout(seconds):
        while not condition(value := await get()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return value


async def read_metrics(service):
    """Values by the name of the series."""

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{service.ports['metrics']}/metrics", timeout=10) as page:
            return [line for line in page.read().decode().splitlines() if line.startswith("vfmalign_monitor")]

    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in await asyncio.to_thread(read))}


async def test_a_window_has_the_numbers_of_the_library_for_every_layer_and_stratum(service, store):
    reference, layers = draw(90, seed=1), draw(120, seed=2, shift=0.5)
    feature_set = store_set(store, reference, "ref")
    await service.create(
        "m", feature_set, stratum="scanner", descriptive_layers=(LAYERS[1],), window_rows=50, alpha=0.05, seed=4
    )
    stream = store_set(store, layers, "stream")
    await rows_of(service, "m", stream)

    async def get():
        return await service.monitors.get("m")

    monitor = await until(get, lambda one: one.windowed_shifts and one.windowed_shifts[0].last_row == 120)
    shifts = {(one.layer, one.stratum): one for one in monitor.windowed_shifts}
    assert set(shifts) == {(layer, stratum) for layer in LAYERS for stratum in ("", "A", "B")}
    places = [place for place in range(90) if place % 3]
    for layer in LAYERS:
        expected = mmd_test(
            reference[layer][places],
            layers[layer][-50:],
            pairing="independent",
            reference=reference[layer][::3],
            permutations=999,
            seed=4,
            standardised=True,
        )
        shown = shifts[layer, ""]
        assert (shown.first_row, shown.last_row, shown.rows, shown.reference_rows) == (71, 120, 50, 60)
        assert shown.mmd2.value == pytest.approx(expected.mmd2, rel=1e-6)
        assert shown.p_value.value == expected.p_value
    assert (shifts[LAYERS[0], "B"].rows, shifts[LAYERS[0], "B"].reference_rows) == (50, 30)
    assert len(monitor.channel_shifts) == 6
    assert sum(one.share for one in monitor.channel_shifts) == pytest.approx(1.0)
    name, shown = 'vfmalign_monitor_mmd2{monitor="m",tenant="default"}', shifts[LAYERS[0], ""].mmd2.value
    # The metric of an earlier window may be there until the next export.
    await until(lambda: read_metrics(service), lambda one: one.get(name) == pytest.approx(shown))
    document = json.loads(await service.monitors.get_report("m", "json"))
    assert [one["last_row"] for one in document["windows"] if not one["stratum"] and one["layer"] == LAYERS[0]][
        -1
    ] == 120


async def test_evidence_goes_on_without_the_mmd_service_and_windows_come_once_it_is_back(service, store, mmd):
    mmd.kill()
    await service.create("m", store_set(store, draw(90, seed=1), "ref"), window_rows=20)
    results = await service.observe("m", draw(40, seed=2))
    assert {one.outcome for one in results} == {"entered"}
    failed = 'vfmalign_monitor_window_failures_total{reason="UNAVAILABLE"}'
    await until(lambda: read_metrics(service), lambda one: one.get(failed, 0) >= 1)
    assert (await service.monitors.get("m")).windowed_shifts == ()
    assert (await service.monitors.get("m")).epoch.rows == 40
    assert await service.monitors.get_report("m")
    await mmd.start()
    await service.kill()
    await service.start()  # a new leader tries at once

    async def get():
        return await service.monitors.get("m")

    await until(get, lambda one: one.windowed_shifts)


async def test_metrics_follow_the_monitor_and_end_with_it(service, store):
    await service.create("m", store_set(store, draw(90, seed=1), "ref"), alpha=0.05, max_silence_hours=2)
    await service.observe("m", draw(60, seed=2, shift=3.0))
    alarm = 'vfmalign_monitor_alarm{monitor="m",tenant="default"}'
    shown = await until(lambda: read_metrics(service), lambda one: one.get(alarm) == 1)
    monitor = await service.monitors.get("m")
    for one in monitor.components:
        name = f'{{component="{one.component}",monitor="m",tenant="default"}}'
        assert shown[f"vfmalign_monitor_log_threshold{name}"] == one.log_threshold
        assert shown[f"vfmalign_monitor_log_evidence{name}"] == one.log_evidence
    assert shown['vfmalign_monitor_max_silence_seconds{monitor="m",tenant="default"}'] == 7200
    assert shown['vfmalign_monitor_observations_total{monitor="m",outcome="entered",tenant="default"}'] == 60
    await service.monitors.acknowledge("m", 1)
    await until(lambda: read_metrics(service), lambda one: one.get(alarm) == 0)
    await service.monitors.pause("m")
    paused = 'vfmalign_monitor_paused{monitor="m",tenant="default"}'
    shown = await until(lambda: read_metrics(service), lambda one: one.get(paused) == 1)
    since = 'vfmalign_monitor_last_observation_timestamp_seconds{monitor="m",tenant="default"}'
    assert shown[since] == monitor.last_observation_time.timestamp()
    await service.monitors.pause("m")
    await service.monitors.resume("m")
    resumed = await until(lambda: read_metrics(service), lambda one: one.get(paused) == 0)
    assert resumed[since] > shown[since], "the silence counts from there"
    await service.monitors.resume("m")
    assert (await read_metrics(service))[since] == resumed[since], "it was not paused"
    await service.monitors.delete("m")
    await until(lambda: read_metrics(service), lambda one: not any('"m"' in name for name in one))


async def test_features_are_deleted_once_neither_a_restart_nor_a_window_needs_them(
    service, store, database, monkeypatch
):
    await service.kill()
    await service.start(
        VFMALIGN_MONITORING__SNAPSHOT_ROWS="20", VFMALIGN_MONITORING__KEPT_WINDOWS="1", VFMALIGN_MMD_ADDRESS=""
    )
    await service.create("m", store_set(store, draw(90, seed=1), "ref"), window_rows=16)
    layers = draw(100, seed=2)
    for stop in range(10, 101, 10):
        await service.observe("m", {name: array[:stop] for name, array in layers.items()}, start=stop - 10)
    await service.kill()
    await service.start(VFMALIGN_MONITORING__KEPT_WINDOWS="1", VFMALIGN_MMD_ADDRESS="")

    async def get():
        with database.snapshot() as session:
            row = session.scalar(sa.select(MonitorRow))
            inputs = session.execute(sa.select(InputRow.row, InputRow.features).order_by(InputRow.row)).all()
        return row.earlier_snapshot["sequence"], inputs

    earlier, inputs = await until(get, lambda one: one[1][0][0] == min(one[0] + 1, 85))
    assert [row for row, _ in inputs] == list(range(min(earlier + 1, 85), 101))
    np.testing.assert_array_equal(load(inputs[-1][1])[LAYERS[0]], layers[LAYERS[0]][99])
    await service.observe("m", draw(1, seed=5), prefix="more")
    assert (await service.monitors.get("m")).epoch.rows == 101
