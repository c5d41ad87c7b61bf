"""A PACS for tests: Orthanc with its DICOMweb plugin (Debian: `orthanc`, `orthanc-dicomweb`) on loopback."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vfmalign.cli.local.ports import free_ports
from vfmalign.imaging.dicom.pacs.servers import PacsServer

_PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc")
_PLUGINS = (Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), Path("/usr/lib/orthanc/libOrthancDicomWeb.so"))
_USER = "importer"


@dataclass(frozen=True)
class Orthanc:
    """A running server.

    Attributes:
        port: of HTTP.
        password_file: the password of its user.
        folder: its storage, log and configuration.
    """

    port: int
    password_file: Path
    folder: Path

    @property
    def server(self) -> PacsServer:
        """How to reach it."""
        return self.make_server(self.port)

    def make_server(self, port: int, **options: Any) -> PacsServer:
        """How to reach it through a proxy on another port."""
        url = f"http://127.0.0.1:{port}/dicom-web"
        credentials = {"username": _USER, "password_file": self.password_file}
        return PacsServer(name="orthanc", url=url, **(credentials | options))

    def to_environment(self, name: str = "orthanc", port: int | None = None, **options: str) -> dict[str, str]:
        """Variables by which commands and services know it, perhaps through a proxy on another port, under a name."""
        server = self.make_server(port or self.port)
        settings = {"URL": server.url, "USERNAME": _USER, "PASSWORD_FILE": str(self.password_file), **options}
        return {f"VFMALIGN_DICOMWEB__{name.upper()}__{key}": value for key, value in settings.items()}

    def store(self, files: Iterable[Path]) -> None:
        """Stores instances."""
        for file in files:
            self.call("POST", "/instances", file.read_bytes())

    def clear(self) -> None:
        """Deletes every patient."""
        for patient in self.call("GET", "/patients"):
            self.call("DELETE", f"/patients/{patient}")

    def call(self, method: str, path: str, data: bytes | None = None) -> Any:
        """Calls Orthanc's own interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        token = base64.b64encode(f"{_USER}:{self.password_file.read_text()}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")


@contextmanager
def run_orthanc() -> Iterator[Orthanc]:
    """Runs a server with an empty archive; skips the test where the program is missing."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    plugin = next(filter(Path.exists, _PLUGINS), None)
    if program is None or plugin is None:
        pytest.skip("no Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    with tempfile.TemporaryDirectory(prefix="orthanc-") as name:
        folder = Path(name)
        (password_file := folder / "password").write_text(secrets.token_hex(16))
        orthanc = Orthanc(free_ports(1)[0], password_file, folder)
        _write_settings(orthanc, plugin)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
        try:
            _wait_until_ready(orthanc, process)
            yield orthanc
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _write_settings(orthanc: Orthanc, plugin: Path) -> None:
    settings = {
        "Name": "tests",
        "StorageDirectory": str(orthanc.folder / "storage"),
        "IndexDirectory": str(orthanc.folder / "index"),
        "Plugins": [str(plugin)],
        "HttpPort": orthanc.port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {_USER: orthanc.password_file.read_text()},
        "SynchronousCMove": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        "HttpThreadsCount": 8,
    }
    path = orthanc.folder / "orthanc.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(settings))


def _wait_until_ready(orthanc: Orthanc, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            orthanc.call("GET", "/dicom-web/studies")
            return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail(f"Orthanc did not start: {(orthanc.folder / 'log').read_text()[-2_000:]}")
