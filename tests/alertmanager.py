"""A real Alertmanager, as Debian packages it, with the example of deploy/prometheus."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.dashboards import ROOT

EXAMPLE = ROOT / "deploy" / "prometheus" / "alertmanager.yml"
PROGRAM = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
START_S = 60.0
_RECEIVER = "127.0.0.1:9095"


@contextlib.contextmanager
def run_alertmanager(folder: Path, receiver: str = _RECEIVER) -> Iterator[str]:
    """Runs the example, which notifies a receiver at this address, and yields its own address."""
    (folder / "alertmanager.yml").write_text(EXAMPLE.read_text().replace(_RECEIVER, receiver))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([str(PROGRAM), *options], stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://{address}/-/ready", process, folder / "log")
            yield address
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
