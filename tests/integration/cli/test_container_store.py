"""The S3 server of Compose: the image's command runs here, on the credentials that its container mounts."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from minio import Minio
from minio.error import S3Error
from tests.unit.cli.local.test_credentials import read_keys

from vfmalign.cli.local import credentials, s3_server
from vfmalign.cli.local.ports import free_ports
from vfmalign.cli.local.s3_configuration import SERVICE_ACCESS

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
BUCKET = "vfmalign"
PREFIXES = {"another/features/", *(prefix for one in SERVICE_ACCESS.values() for prefix in (*one.read, *one.write))}
PORTS = ("master", "volume", "filer", "s3")
CONTENT = b"content"


@dataclass
class Server:
    """The server, the folder of all credentials, and its ports."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: dict[str, int]

    def connect(self, holder: str) -> Minio:
        """Returns a client with a holder's keys."""
        access_key, secret_key = read_keys(self.folder, holder)
        address = f"127.0.0.1:{self.ports['s3']}"
        return Minio(address, access_key=access_key, secret_key=secret_key, secure=False, region="us-east-1")


def read_command() -> list[str]:
    """Returns the command that the container runs: the image's entry point and the arguments in compose.yaml."""
    stage = (DEPLOY / "Dockerfile").read_text().partition("FROM runtime AS s3")[2].partition("FROM ")[0]
    found = re.search(r"ENTRYPOINT (\[.*\])", stage.replace("\\\n", ""))
    assert found
    return [*json.loads(found[1]), *COMPOSE["services"]["s3"]["command"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs the command; only folders, ports and the address of S3 are others than in the container."""
    folder = tmp_path_factory.mktemp("container")
    assert credentials.main([str(folder / "credentials")]) == 0
    (folder / "data").mkdir()
    mount = COMPOSE["services"]["s3"]["working_dir"]
    _, *arguments = (
        one.replace("/data", str(folder / "data")).replace(mount, ".").replace("0.0.0.0", "127.0.0.1")
        for one in read_command()
    )
    own = free_ports(2 * len(PORTS))
    ports = dict(zip((*PORTS, *(f"{name}_grpc" for name in PORTS)), own, strict=True))
    arguments += [
        f"-{name.replace('_', '.port.') if '_' in name else f'{name}.port'}={port}" for name, port in ports.items()
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [s3_server.program(), *arguments], cwd=folder / "credentials/s3", stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    running = Server(process, folder / "credentials", ports)
    try:
        create_bucket(running, folder / "log")
        yield running
    finally:
        s3_server.stop(process.pid, grace_s=0)
        process.wait()


def create_bucket(server: Server, log: Path) -> None:
    """Runs what `make compose-up` runs in the container `cli`, and stores an object under every prefix."""
    mount = COMPOSE["services"]["s3"]["working_dir"]
    written = COMPOSE["services"]["cli"]["environment"]
    variables = {name: value.replace(mount, str(server.folder / "owner")) for name, value in written.items()}
    variables["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{server.ports['s3']}"
    variables |= {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "vfmalign.cli", "store", "init", "--wait", "60"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + log.read_text()[-4000:]
    for prefix in PREFIXES:
        put(server.connect("owner"), f"{prefix}there")


def put(client: Minio, key: str) -> None:
    """Stores an object."""
    client.put_object(BUCKET, key, io.BytesIO(CONTENT), len(CONTENT))


def is_allowed(action: Any, *arguments: Any) -> bool:
    """Returns whether the server admits a call; every refusal is AccessDenied."""
    try:
        action(*arguments)
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    return True


@pytest.mark.parametrize("service", ["features", "mmd", "finetuning", "monitoring"])
def test_the_keys_of_a_service_do_what_its_policy_says(server: Server, service: str) -> None:
    client = server.connect(service)
    access = SERVICE_ACCESS[service]
    read = {prefix for prefix in PREFIXES if is_allowed(client.stat_object, BUCKET, f"{prefix}there")}
    written = {prefix for prefix in PREFIXES if is_allowed(put, client, f"{prefix}{service}")}
    assert read == {prefix for prefix in PREFIXES if prefix.startswith(access.read)}
    assert written == {prefix for prefix in PREFIXES if prefix.startswith(access.write)}
    assert not is_allowed(client.make_bucket, f"{service}-own")


def call(port: int, channel_credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """Returns the status of a call of a method that no server has."""
    address = f"127.0.0.1:{port}"
    secure = channel_credentials is not None
    with grpc.secure_channel(address, channel_credentials) if secure else grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a.Service/Method")(b"", timeout=10)
        return caught.value.code()


@pytest.mark.parametrize("part", PORTS)
def test_grpc_ports_admit_the_server_s_certificate_alone(server: Server, part: str) -> None:
    ca, certificate, key = (
        (server.folder / "s3/tls" / name).read_bytes() for name in ("ca.pem", "certificate.pem", "key.pem")
    )
    port = server.ports[f"{part}_grpc"]
    assert call(port, grpc.ssl_channel_credentials(ca, key, certificate)) is grpc.StatusCode.UNIMPLEMENTED
    assert call(port, grpc.ssl_channel_credentials(ca)) is grpc.StatusCode.UNAVAILABLE
    assert call(port, None) is grpc.StatusCode.UNAVAILABLE


def test_it_writes_nothing_beside_its_data(server: Server) -> None:
    names = {str(path.relative_to(server.folder / "s3")) for path in (server.folder / "s3").rglob("*")}
    tls = {"tls", "tls/ca.pem", "tls/certificate.pem", "tls/key.pem"}
    assert names == {"identities.json", "security.toml"} | tls, "its container mounts the folder read-only"


def test_nothing_else_listens(server: Server) -> None:
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    listening = {
        one.laddr.port
        for process in processes
        for one in process.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert listening == set(server.ports.values())
    assert [one for one in read_command() if "0.0.0.0" in one] == ["-s3.ip.bind=0.0.0.0"]


def test_every_container_mounts_its_own_folder_alone() -> None:
    mounts = {
        name: [one["volume"]["subpath"] for one in service.get("volumes", ()) if isinstance(one, dict)]
        for name, service in COMPOSE["services"].items()
    }
    own = {name: [name] for name in (*SERVICE_ACCESS, "s3", "dicom-gateway")} | {"cli": ["owner"]}
    assert {name: folders for name, folders in mounts.items() if folders} == own
    whole = [
        name
        for name, service in COMPOSE["services"].items()
        if any(str(one).startswith("credentials:") for one in service.get("volumes", ()))
    ]
    assert whole == ["credentials"], "the step that draws them, which has no network"
    assert COMPOSE["services"]["credentials"]["network_mode"] == "none"
    variables = {key for service in COMPOSE["services"].values() for key in service.get("environment", {})}
    assert not variables & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
