"""A real Prometheus, as Debian packages it, that scrapes what a test runs."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

PROGRAM = shutil.which("prometheus")
START_S = 60.0
STEP_S = 2
"""Seconds between scrapes, and between the values of a query."""
RULES_S = 6
"""Seconds between evaluations of all rules, which cost more than everything else that it does."""
Series = dict[tuple[tuple[str, str], ...], list[float]]
"""Values over time by labels, without those that are not numbers."""


@dataclass(frozen=True)
class Prometheus:
    """A server that runs.

    Attributes:
        url: its address.
        began_s: when it started, in seconds since 1970.
    """

    url: str
    began_s: float

    def get(self, path: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as page:
                return json.load(page)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> Series:
        """The values of a query since the start."""
        found = self.get("query_range", query=expression, start=self.began_s, end=time.time(), step=STEP_S)
        series = {
            tuple(sorted(one["metric"].items())): [
                value for _, text in one["values"] if math.isfinite(value := float(text))
            ]
            for one in found["result"]
        }
        return {labels: values for labels, values in series.items() if values}


@contextlib.contextmanager
def run_prometheus(
    folder: Path,
    targets: Mapping[str, str],
    rule_files: Sequence[Path],
    *,
    step_s: int = STEP_S,
    alertmanager: str = "",
) -> Iterator[Prometheus]:
    """Runs a Prometheus that scrapes targets, addresses by the name of their job, and tells an Alertmanager."""
    every = f"{step_s}s"
    managers = [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
    config = {
        "alerting": {"alertmanagers": managers},
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": f"{max(step_s, RULES_S)}s",
        },
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        began_s = time.time()
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://{address}/-/ready", process, folder / "log")
            yield Prometheus(f"http://{address}", began_s)
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@contextlib.contextmanager
def serve_page(content: str) -> Iterator[str]:
    """Serves a page of metrics, and yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
