"""A real stack under real alerts: `python -m tests.operations --minutes 30`, and with `--fault NAME` once or more.

Takes as long as it says, and is not part of any suite. The fault `full-disk` needs the right to mount. Prometheus
scrapes a local stack every 15 s with the rules of deploy/prometheus, and tells an Alertmanager with the example beside
them. Without a fault, no alert may fire. With one, exactly one notification is sent, with the alert of its cause, and
no alert fires five minutes after the cure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
from tests.alertmanager import run_alertmanager
from tests.dashboards import ROOT
from tests.integration.cli.commands import suspended
from tests.prometheus import Prometheus, run_prometheus

from vfmalign.cli.local.s3_configuration import MIN_FREE_BYTES
from vfmalign.cli.local.stack import SERVICES, running_stack
from vfmalign.cli.local.state_directory import StackState, StateDirectory
from vfmalign.client import Client, ComputeOptions, Kernel
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.core.storage.store.object_store import ObjectStore

STEP_S = 15
CALL_S = 5.0
NOTIFIED_WITHIN_S, ENDS_WITHIN_S, LASTS_S = 15 * 60.0, 5 * 60.0, 3 * 60.0
FIRING = 'ALERTS{alertstate="firing",sloth_severity!="ticket"}'
"""Tickets of objectives look at days, of which a stack that has just started has minutes."""
RULES = [ROOT / "deploy" / "prometheus" / name for name in ("alerts.yml", "slos.yml")]
ROOM_BYTES, QUOTA_BYTES = 128 * 2**20, 8 * 2**20
"""Room for writes on the disk of the store, and the quota of its tenant."""


class Inbox:
    """What Alertmanager sends: the alerts of each notification, by its receiver and the key of its group."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str], set[str]] = {}
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = [one["labels"] for one in sent["alerts"] if one["status"] == "firing"]
                names = {labels["alertname"] for labels in found if labels.get("sloth_severity") != "ticket"}
                if names:
                    inbox.sent.setdefault((sent["receiver"], sent["groupKey"]), set()).update(names)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @contextlib.contextmanager
    def run(self) -> Iterator[str]:
        """Listens, and yields its address."""
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{self.server.server_port}"
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@contextlib.contextmanager
def repeating(action: Callable[[], object], pause_s: float) -> Iterator[None]:
    """Repeats an action while the block runs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            action()
            ended.wait(pause_s)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except VfmalignError:
        return True
    return False


@dataclass(frozen=True)
class Installation:
    """A local stack that runs."""

    directory: StateDirectory
    state: StackState

    def connect(self, token: str = "") -> Client:
        """Returns a client, by default with the owner's token."""
        addresses = {f"{name}_address": self.state.services[name].ports.address for name in SERVICES}
        return Client(**addresses, token=token or self.get_token(), call_timeout_s=10.0)

    def get_token(self) -> str:
        assert self.state.token_file is not None
        return self.state.token_file.read_text().strip()

    def get_store(self) -> psutil.Process:
        assert self.state.store is not None
        assert self.state.store.process is not None
        return psutil.Process(self.state.store.process.pid)

    def get_mmd(self) -> psutil.Process:
        """The process of mmd, or the last one while it does not run."""
        process = self.directory.read().services["mmd"].process or self.state.services["mmd"].process
        assert process is not None
        return psutil.Process(process.pid)

    def kill_mmd(self) -> None:
        """Kills mmd, which the stack starts again."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.get_mmd().kill()

    def stop_store(self) -> None:
        """Stops the store for a while."""
        with suspended(self.get_store()):
            time.sleep(4)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fills the disk of the store."""
        filling = self.directory.s3 / "filling"
        with filling.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
        try:
            yield
        finally:
            filling.unlink()

    @contextlib.contextmanager
    def denied_calls(self) -> Iterator[None]:
        """Calls every second with a wrong signature."""
        token = self.get_token()
        with (
            self.connect(token[:-8] + token[-8:][::-1]) as client,
            repeating(lambda: fails(client.features.list_models), 1),
        ):
            yield

    @contextlib.contextmanager
    def used_quota(self) -> Iterator[None]:
        """Uses the quota of storage, and uploads files, which the service refuses."""
        assert self.state.store is not None
        store = ObjectStore(self.state.store.to_settings()).of_tenant(DEFAULT_TENANT)
        store.put("volumes/filling", bytes(QUOTA_BYTES))
        try:
            with self.connect() as client:
                upload = partial(client.datasets.upload, "filling")
                with repeating(lambda: fails(partial(upload, [os.urandom(64)])), 5):
                    yield
        finally:
            store.delete("volumes/filling")


@dataclass(frozen=True)
class Fault:
    """A fault, which lasts for a block.

    Attributes:
        alert: the one that may notify somebody.
        happens: the block.
        receiver: `pager`, or `tickets` where nothing fails that cannot wait until the morning.
    """

    alert: str
    happens: Callable[[Installation], contextlib.AbstractContextManager[object]]
    receiver: str = "pager"


FAULTS = {
    "service": Fault("VfmalignServiceDown", lambda stack: suspended(stack.get_mmd())),
    "killed": Fault("VfmalignServiceDown", lambda stack: repeating(stack.kill_mmd, 0.2)),
    "crashing": Fault("VfmalignRestarts", lambda stack: repeating(stack.kill_mmd, 75)),
    "store": Fault("VfmalignStoreLost", lambda stack: suspended(stack.get_store())),
    "slow-store": Fault("VfmalignStoreSlow", lambda stack: repeating(stack.stop_store, 0.1), "tickets"),
    "full-disk": Fault("VfmalignStoreWritesFail", Installation.full_disk),
    "denied": Fault("VfmalignCallsDenied", Installation.denied_calls, "tickets"),
    "quota": Fault("VfmalignQuotaNearlyUsed", Installation.used_quota, "tickets"),
}


class Traffic:
    """Calls of users, one after the other; those that fail during a fault are left alone."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ended, self.failures = threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
        options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0))
        stored = self._client.mmd.upload(rows)
        calls: list[Callable[[], object]] = [
            lambda: self._client.mmd.compute(rows, rows + 0.1, options, timeout_s=10.0),
            lambda: self._client.mmd.compute(stored, rows, options, timeout_s=10.0),
            self._client.features.list_models,
            lambda: self._client.monitors.list(limit=10),
            lambda: self._client.checks.list(limit=10),
        ]
        while True:
            for call in calls:
                self.failures += fails(call)
                if self._ended.wait(CALL_S / len(calls)):
                    return


def list_firing(prometheus: Prometheus) -> set[str]:
    """The alerts that fire now."""
    found = prometheus.get("query", query=FIRING)
    return {one["metric"]["alertname"] for one in found["result"]}


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> float:
    """Waits for a condition; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"after {seconds:g} s, there is no {what}")
        time.sleep(1)
    return time.monotonic() - began


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def watch_health(prometheus: Prometheus, inbox: Inbox, traffic: Traffic, minutes: float) -> None:
    """Asserts that nothing fires while users call."""
    time.sleep(60 * minutes)
    fired = {dict(labels)["alertname"] for labels in prometheus.query(FIRING)}
    assert not fired, f"fired in healthy traffic: {sorted(fired)}"
    assert not inbox.sent, inbox.sent
    assert traffic.failures == 0, f"{traffic.failures} calls failed"
    say(f"no alert in {minutes:g} minutes")


def watch_fault(prometheus: Prometheus, inbox: Inbox, name: str, installation: Installation) -> None:
    """Asserts that a fault notifies once, by its cause, and that no alert fires soon after the cure."""
    fault = FAULTS[name]
    inbox.sent.clear()
    with fault.happens(installation):
        took_s = wait_for("notification", lambda: bool(inbox.sent), NOTIFIED_WITHIN_S)
        say(f"{name}: notified after {took_s:.0f} s; {sorted(list_firing(prometheus))} fire")
        time.sleep(LASTS_S)
    took_s = wait_for("end of the alerts", lambda: not list_firing(prometheus), ENDS_WITHIN_S)
    say(f"{name}: the last alert ended {took_s:.0f} s after the cure")
    time.sleep(60)  # the notification of a consequence would come now
    sent = [(receiver, names) for (receiver, _), names in inbox.sent.items()]
    assert sent == [(fault.receiver, {fault.alert})], f"{name}: {inbox.sent}"
    say(f"{name}: one notification of {fault.receiver}: {fault.alert}")


def main() -> None:
    """Runs the stack, and then healthy traffic and the chosen faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.operations", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of healthy traffic")
    parser.add_argument("--fault", choices=FAULTS, action="append", default=[], help="what happens afterwards")
    arguments = parser.parse_args()
    inbox = Inbox()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        root = Path(folder)
        for name in ("stack", "prometheus", "alertmanager"):
            (root / name).mkdir()
        directory = StateDirectory(root / "stack")
        directory.create()
        if "full-disk" in arguments.fault:
            directory.s3.mkdir(exist_ok=True)
            size = f"size={MIN_FREE_BYTES + ROOM_BYTES}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", directory.s3], check=True)
            opened.callback(subprocess.run, ["umount", "--lazy", directory.s3], check=True)
        settings = {"VFMALIGN_FEATURES__MAX_STORED_BYTES": str(QUOTA_BYTES)}
        state = opened.enter_context(running_stack(directory, say, settings))
        installation = Installation(directory, state)
        client = opened.enter_context(installation.connect())
        traffic = opened.enter_context(Traffic(client))
        manager = opened.enter_context(run_alertmanager(root / "alertmanager", opened.enter_context(inbox.run())))
        targets = {f"vfmalign-{name}": f"127.0.0.1:{state.services[name].ports.metrics}" for name in SERVICES}
        prometheus = opened.enter_context(
            run_prometheus(root / "prometheus", targets, RULES, step_s=STEP_S, alertmanager=manager)
        )
        watch_health(prometheus, inbox, traffic, arguments.minutes)
        for fault in arguments.fault:
            watch_fault(prometheus, inbox, fault, installation)


if __name__ == "__main__":
    main()
