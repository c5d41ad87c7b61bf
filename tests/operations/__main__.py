"""A real stack under real alerts: `python -m tests.operations --minutes 30`, and with `--fault service` or `store`.

Takes as long as it says, and is not part of any suite. Prometheus scrapes a local stack every 15 s with the rules of
deploy/prometheus, and tells an Alertmanager with the example beside them. Without a fault, no alert may fire. With one,
the fault pages once, by the name of its cause, and the page ends within five minutes after the cure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tests.alertmanager import run_alertmanager
from tests.dashboards import ROOT
from tests.prometheus import Prometheus, run_prometheus

from vfmalign.cli.local.stack import SERVICES, running_stack
from vfmalign.cli.local.state_directory import StackState, StateDirectory
from vfmalign.client import Client, ComputeOptions, Kernel
from vfmalign.core.domain.errors import VfmalignError

STEP_S = 15
CALL_S = 5.0
PAGED_WITHIN_S, ENDS_WITHIN_S, LASTS_S = 15 * 60.0, 5 * 60.0, 3 * 60.0
CAUSES = {"service": "VfmalignServiceDown", "store": "VfmalignStoreLost"}
"""The one alert that a fault may page with."""
FIRING = 'ALERTS{alertstate="firing",sloth_severity!="ticket"}'
"""Tickets of objectives look at days, of which a stack that has just started has minutes."""
RULES = [ROOT / "deploy" / "prometheus" / name for name in ("alerts.yml", "slos.yml")]


class Pager:
    """What Alertmanager sends to the pager: the alerts of each notification, by the key of its group."""

    def __init__(self) -> None:
        self.pages: dict[str, set[str]] = {}
        pager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if sent["receiver"] == "pager":
                    names = {alert["labels"]["alertname"] for alert in sent["alerts"] if alert["status"] == "firing"}
                    pager.pages.setdefault(sent["groupKey"], set()).update(names)
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


class Traffic:
    """Calls of users, one after the other; those that fail during a fault are left alone."""

    def __init__(self, state: StackState) -> None:
        assert state.token_file is not None
        addresses = {f"{name}_address": state.services[name].ports.address for name in SERVICES}
        self._client = Client(**addresses, token=state.token_file.read_text().strip(), call_timeout_s=10.0)
        self._ended, self.failures = threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
        options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0))
        calls: list[Callable[[], object]] = [
            lambda: self._client.mmd.compute(rows, rows + 0.1, options, timeout_s=10.0),
            self._client.features.list_models,
            lambda: self._client.monitors.list(limit=10),
            lambda: self._client.checks.list(limit=10),
        ]
        while True:
            for call in calls:
                try:
                    call()
                except VfmalignError:
                    self.failures += 1
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


def watch_health(prometheus: Prometheus, pager: Pager, traffic: Traffic, minutes: float) -> None:
    """Asserts that nothing fires while users call."""
    time.sleep(60 * minutes)
    fired = {dict(labels)["alertname"] for labels in prometheus.query(FIRING)}
    assert not fired, f"fired in healthy traffic: {sorted(fired)}"
    assert not pager.pages, pager.pages
    assert traffic.failures == 0, f"{traffic.failures} calls failed"
    say(f"no alert in {minutes:g} minutes")


def watch_fault(prometheus: Prometheus, pager: Pager, fault: str, process: psutil.Process) -> None:
    """Stops a process, and asserts that its fault pages once and that the page ends soon after the cure."""
    pager.pages.clear()
    process.suspend()
    try:
        took_s = wait_for("page", lambda: bool(pager.pages), PAGED_WITHIN_S)
        say(f"{fault} stopped: paged after {took_s:.0f} s by {sorted(list_firing(prometheus))}")
        time.sleep(LASTS_S)
    finally:
        process.resume()
    took_s = wait_for("end of the alerts", lambda: not list_firing(prometheus), ENDS_WITHIN_S)
    say(f"{fault} runs again: the last alert ended after {took_s:.0f} s")
    time.sleep(60)  # the page of a consequence would come now
    assert list(pager.pages.values()) == [{CAUSES[fault]}], pager.pages
    say(f"one page: {pager.pages}")


def get_process(state: StackState, fault: str) -> psutil.Process:
    ref: Any = state.services["mmd"].process
    if fault == "store":
        assert state.store is not None
        ref = state.store.process
    return psutil.Process(ref.pid)


def main() -> None:
    """Runs the stack, and then healthy traffic and the chosen faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.operations", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of healthy traffic")
    parser.add_argument("--fault", choices=CAUSES, action="append", default=[], help="what to stop afterwards")
    arguments = parser.parse_args()
    pager = Pager()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        root = Path(folder)
        for name in ("stack", "prometheus", "alertmanager"):
            (root / name).mkdir()
        directory = StateDirectory(root / "stack")
        directory.create()
        state = opened.enter_context(running_stack(directory, say))
        traffic = opened.enter_context(Traffic(state))
        manager = opened.enter_context(run_alertmanager(root / "alertmanager", opened.enter_context(pager.run())))
        targets = {f"vfmalign-{name}": f"127.0.0.1:{state.services[name].ports.metrics}" for name in SERVICES}
        prometheus = opened.enter_context(
            run_prometheus(root / "prometheus", targets, RULES, step_s=STEP_S, alertmanager=manager)
        )
        watch_health(prometheus, pager, traffic, arguments.minutes)
        for fault in arguments.fault:
            watch_fault(prometheus, pager, fault, get_process(state, fault))


if __name__ == "__main__":
    main()
