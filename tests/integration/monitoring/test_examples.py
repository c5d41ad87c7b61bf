"""The programs of examples/ that observe: clients in Python and Node.js, and the bridge from KServe's logger."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from tests.integration.features.callers import ISSUER, get_settings
from tests.integration.monitoring.conftest import CHANNELS, LAYERS, ORIGIN, draw, store_set

from vfmalign.client import AsyncClient

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PROGRAMS = {"python": [sys.executable, "python/observe.py"], "node": ["node", "node/observe.js"]}
TIMEOUT_S = 60


@pytest.fixture
def environment(environment, tmp_path):
    """Tokens alone are admitted."""
    return environment | get_settings(tmp_path)


@pytest.fixture
async def service(service, tmp_path):
    """The service; its client is a researcher."""
    await service.client.close()
    log_in(service)
    (tmp_path / "researcher").write_text(ISSUER.sign("researcher") + "\n")
    return service


def log_in(service):
    service.client = AsyncClient(monitoring_address=service.address, token=ISSUER.sign("researcher"))
    service.monitors = service.client.monitors


# --- clients ---


async def run_client(service, language, tmp_path, *arguments, rows=()):
    lines = "".join(
        json.dumps({"id": f"s-{place}", "group": f"g-{place}", "features": list(row)}) + "\n"
        for place, row in enumerate(rows)
    )
    environment = {
        **os.environ,
        "VFMALIGN_MONITORING_ADDRESS": service.address,
        "VFMALIGN_TOKEN_FILE": str(tmp_path / "researcher"),
    }
    return await asyncio.to_thread(
        subprocess.run,
        [*PROGRAMS[language], *arguments],
        cwd=EXAMPLES,
        env=environment,
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def skip_without(language):
    if language == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    if language == "node" and not (EXAMPLES / "node/node_modules").is_dir():
        pytest.skip("the packages of the example are not installed: run `npm install` in examples/node")


@pytest.mark.parametrize("language", PROGRAMS)
async def test_a_client_creates_a_monitor_observes_and_reads_the_alarm(service, reference, language, tmp_path):
    skip_without(language)
    rows = draw(40, seed=4, shift=2.0)[LAYERS[0]].tolist()
    done = await run_client(service, language, tmp_path, "m", reference, rows=rows)
    assert done.returncode == 0, done.stderr
    monitor = await service.monitors.get("m")
    alarm = monitor.epoch.alarm
    assert monitor.outcomes == {"entered": 40}
    assert f"alarm at row {alarm.row} of epoch 1\n" in done.stdout
    assert 'outcomes {"entered": 40}' in done.stdout.replace('"entered":40', '"entered": 40')
    assert done.stdout.endswith(f"\nalarm {alarm.observation_id}\n")
    assert len(re.findall(r"(?i)^\S*(?:rows|blocks_of_4|blocks_of_16|channels) [-\d.e]+ of ", done.stdout, re.M)) == 4

    again = await run_client(service, language, tmp_path, "m", reference, rows=rows)
    assert (await service.monitors.get("m")).outcomes == {"entered": 40, "duplicate": 40}
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]

    failed = await run_client(service, language, tmp_path, "n", "0" * 32)
    assert failed.returncode == 1
    assert "there is no such feature set" in failed.stderr


@pytest.mark.parametrize("language", PROGRAMS)
async def test_a_client_takes_null_for_nan_and_not_for_zero(service, reference, language, tmp_path):
    """JSON has no NaN: most programs write null."""
    skip_without(language)
    done = await run_client(service, language, tmp_path, "m", reference, rows=[[None, *[0.5] * (CHANNELS - 1)]])
    assert done.returncode == 0, done.stderr
    assert (await service.monitors.get("m")).outcomes == {"not_finite": 1}


# --- the bridge from KServe ---


class Bridge:
    """The running bridge, and what KServe's logger posts to it."""

    def __init__(self, service, folder, monitor_id, origin, role="router"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        token = folder / f"bridge-{role}"
        token.write_text(ISSUER.sign(role))
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "MONITOR": monitor_id,
            "CHECKPOINT_SHA256": origin.checkpoint_sha256,
            "PREPROCESSING_SHA256": origin.preprocessing_sha256,
            "INPUT_TRANSFORM": origin.input_transform,
            "VFMALIGN_MONITORING_ADDRESS": service.address,
            "VFMALIGN_TOKEN_FILE": str(token),
        }
        self.log = folder / f"bridge-{self.port}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "kserve/bridge.py"], cwd=EXAMPLES, env=environment, stdout=log, stderr=log
            )

    def wait(self):
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def post(self, headers, body):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def send(self, event, mode=to_binary_event):
        message = mode(event)
        return self.post(message.headers, message.body)

    def close(self):
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()


@pytest.fixture
async def start_bridge(service, reference, tmp_path):
    """Starts bridges for features of an origin to a monitor, `m` unless another is named."""
    await service.create("m", reference, stratum="scanner")
    bridges = []

    async def start(origin=ORIGIN, monitor_id="m", role="router"):
        bridges.append(Bridge(service, tmp_path, monitor_id, origin, role))
        return await asyncio.to_thread(bridges[-1].wait)

    yield start
    for bridge in bridges:
        bridge.close()


def make_event(event_id, values, kind="response", group="9f86d081", **changes):
    """An event with the attributes of those that KServe posts."""
    attributes = {
        "id": event_id,
        "type": f"org.kubeflow.serving.inference.{kind}",
        "source": "http://localhost:9081/",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "inferenceservicename": "lesions",
        "namespace": "models",
        "component": "predictor",
        "metadata": json.dumps({"X-Patient-Group": [group], "X-Scanner": ["B"]}),
    }
    output = {"name": LAYERS[0], "shape": [1, len(values)], "datatype": "FP32", "data": list(values)}
    data = {"model_name": "lesions", "outputs": [output]}
    return CloudEvent({**attributes, **changes}, data)


async def test_the_bridge_observes_every_response_once(service, start_bridge):
    bridge = await start_bridge()
    row = draw(1, seed=3)[LAYERS[0]][0].tolist()
    first = make_event("0009174a-24a8-4603-b098-09c8799950e9", row)

    def post():
        attributes = first.get_attributes()
        plain = {f"ce-{name}": str(attributes[name]) for name in ("specversion", "id", "type", "source", "metadata")}
        return [
            bridge.send(make_event("r-1", row, kind="request")),
            bridge.send(first),
            bridge.send(first),
            bridge.send(first, to_structured_event),
            bridge.post(plain | {"Content-Type": "application/json"}, to_binary_event(first).body),  # not encoded
            bridge.send(make_event("r-2", [None, *row[1:]], group="p2")),
            bridge.send(make_event("r-3", row, group="p3")),
        ]

    assert await asyncio.to_thread(post) == [
        (200, ""),
        *[(200, "entered")] * 4,
        (200, "not_finite"),
        (200, "entered"),
    ]
    monitor = await service.monitors.get("m")
    assert monitor.outcomes == {"entered": 2, "duplicate": 3, "not_finite": 1}
    assert monitor.mix.rows == {"A": 0, "B": 2}
    assert "9f86d081" not in bridge.log.read_text()


async def test_the_bridge_observes_for_a_monitor_whose_reference_has_the_input_transform_of_a_task(
    service, start_bridge, store
):
    """The origin is that of the monitor, as `vfmalign monitors show --json` prints it."""
    feature_set = store_set(store, draw(90, seed=1), "task", input_transform="half_resolution")
    origin = (await service.create("task", feature_set)).origin
    assert origin.input_transform == "half_resolution"
    bridge, identity = await start_bridge(origin, "task"), await start_bridge(ORIGIN, "task")
    event = make_event("r-1", [0.0] * CHANNELS)
    status, text = await asyncio.to_thread(identity.send, event)
    assert (status, "features of another input transform" in text) == (422, True)
    assert await asyncio.to_thread(bridge.send, event) == (200, "entered")
    assert (await service.monitors.get("task")).outcomes == {"entered": 1}


async def test_the_bridge_refuses_what_it_cannot_observe_and_goes_on(service, start_bridge):
    bridge, other = await start_bridge(), await start_bridge(ORIGIN.model_copy(update={"checkpoint_sha256": "9" * 64}))
    row = [0.0] * CHANNELS

    def post():
        wrong = [
            bridge.send(make_event("Not An Id", row)),
            bridge.send(make_event("r-1", row, metadata="{}")),
            bridge.send(make_event("r-1", row, metadata="[" * 30_000)),
            bridge.send(make_event("r-1", row[1:])),
            bridge.send(make_event("r-1", ["x"])),
            bridge.post({"Content-Type": "application/json"}, b"{}"),
            bridge.post({"Content-Type": "application/json"}, b"\xff"),
            bridge.post({"ce-id": "a"}, b""),
            bridge.post({"Content-Length": "x"}, b""),
            bridge.post({"Content-Length": "-1"}, b""),
        ]
        refused = other.send(make_event("r-1", row))
        return wrong, refused, bridge.send(make_event("r-1", row))

    wrong, refused, recorded = await asyncio.to_thread(post)
    assert [status for status, _ in wrong] == [422] * len(wrong)
    assert refused[0] == 422
    assert "the monitor watches features of other weights" in refused[1]
    assert recorded == (200, "entered")
    assert (await service.monitors.get("m")).outcomes == {"entered": 1}


async def test_the_bridge_says_nothing_of_connections_that_end_early(service, start_bridge):
    """A traceback would quote the event that could not be answered."""
    bridge = await start_bridge()
    body = make_event("r-1", ["Anna Muster"])

    def leave():
        message = to_binary_event(body)
        head = "".join(f"{name}: {value}\r\n" for name, value in message.headers.items())
        request = f"POST / HTTP/1.1\r\n{head}Content-Length: {len(message.body)}\r\n\r\n".encode() + message.body
        for sent in (b"", request[:20], request):
            with socket.create_connection(("127.0.0.1", bridge.port)) as connection:
                connection.sendall(sent)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        return bridge.send(make_event("r-2", [0.0] * CHANNELS))

    assert await asyncio.to_thread(leave) == (200, "entered")
    bridge.close()
    log = bridge.log.read_text()
    assert "Traceback" not in log
    assert "Exception" not in log
    assert "Muster" not in log


async def test_the_log_of_the_bridge_says_why_an_event_is_not_recorded(service, start_bridge):
    """KServe's logger reads no more of an answer than its status."""
    bridge = await start_bridge()
    row = [0.0] * CHANNELS

    def post():
        return [
            bridge.send(make_event("r-1", row, metadata=json.dumps({"X-Scanner": ["B"]}))),
            bridge.send(make_event("r-1", row, group="Anna Muster")),
            bridge.send(make_event("r-1", row[1:])),
            bridge.send(make_event("r-1", ["Anna Muster"])),
        ]

    assert [status for status, _ in await asyncio.to_thread(post)] == [422] * 4
    log = bridge.log.read_text()
    assert "a study: KeyError: 'X-Patient-Group'" in log
    assert "a study: BadOption: group: not a valid id" in log
    assert f"expected a vector of {CHANNELS} channels as in the reference" in log
    assert "a study: ValueError\n" in log
    assert "Anna" not in log


async def test_an_event_is_sent_again_where_monitoring_refuses_the_bridge(service, start_bridge):
    """An operator gives the bridge its role; the event is not what is wrong."""
    bridge = await start_bridge(role="viewer")
    status, text = await asyncio.to_thread(bridge.send, make_event("r-1", [0.0] * CHANNELS))
    assert status == 503
    assert text in bridge.log.read_text()


async def test_outputs_of_text_beside_the_features_are_left_out(service, start_bridge):
    bridge = await start_bridge()
    data = make_event("r-1", [0.0] * CHANNELS).get_data()
    data["outputs"].append({"name": "class", "shape": [1, 1], "datatype": "BYTES", "data": ["lesion"]})
    event = CloudEvent(make_event("r-1", [0.0]).get_attributes(), data)
    assert await asyncio.to_thread(bridge.send, event) == (200, "entered")


async def test_an_event_that_was_refused_while_monitoring_was_away_is_observed_when_it_is_sent_again(
    service, start_bridge, tmp_path
):
    bridge = await start_bridge()
    event = make_event("r-1", [0.0] * CHANNELS)
    ports = service.ports
    await service.kill()
    assert (await asyncio.to_thread(bridge.send, event))[0] == 503
    await service.start(VFMALIGN_SERVER__GRPC_PORT=str(ports["grpc"]))
    log_in(service)

    def send_until_recorded():
        end = time.monotonic() + TIMEOUT_S
        while (answer := bridge.send(event))[0] == 503 and time.monotonic() < end:
            time.sleep(0.2)
        return answer

    assert await asyncio.to_thread(send_until_recorded) == (200, "entered")
    assert (await service.monitors.get("m")).outcomes["entered"] == 1
