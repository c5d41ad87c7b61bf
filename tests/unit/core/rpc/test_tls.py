"""TLS of the API port, over a real socket, with certificates of a throwaway authority."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.cli.local.probes import get_health
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.core.domain import errors
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.server import serve
from vfmalign.core.rpc.tls import open_channel
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings, load
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Authority:
    """An authority in a folder; what it issues replaces the server's certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self._folder = folder

    def issue(self) -> tuple[Path, Path]:
        issued = self._ca.issue_cert("127.0.0.1")
        certificate, key = self._folder / "tls.crt", self._folder / "tls.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "trusted")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


class Answering(mmd_pb2_grpc.MmdServiceServicer):
    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        return mmd_pb2.ComputeResponse(estimator=mmd_pb2.ESTIMATOR_BIASED, primary_layer="done")


@pytest.fixture
async def ports(tmp_path: Path, trusted: Authority) -> AsyncIterator[dict[str, int]]:
    certificate, key = trusted.issue()
    ports_file = tmp_path / "ports.json"
    server = {"grpc_port": 0, "metrics_port": 0, "health_port": 0, "ports_file": ports_file}
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(**server, tls_cert_file=certificate, tls_key_file=key),
    )

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(Answering(), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    task = asyncio.create_task(serve("test", settings, add))
    while not ports_file.exists():
        await asyncio.sleep(0.01)
        assert not task.done()
    yield json.loads(ports_file.read_text())
    os.kill(os.getpid(), signal.SIGTERM)
    await task


async def ask(ports: dict[str, int], ca_file: Path | None) -> str:
    async with connect(f"127.0.0.1:{ports['grpc']}", ca_file=ca_file) as channel:
        answer = await mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest())
    return str(answer.primary_layer)


async def test_who_trusts_the_authority_is_served(ports: dict[str, int], trusted: Authority) -> None:
    assert await ask(ports, trusted.file) == "done"


async def test_who_trusts_another_or_speaks_in_plaintext_is_not(ports: dict[str, int], other: Authority) -> None:
    for ca_file in (other.file, None):
        with pytest.raises(errors.Unavailable, match="MmdService"):
            await ask(ports, ca_file)


async def test_a_renewed_certificate_counts_at_once(
    ports: dict[str, int], trusted: Authority, other: Authority
) -> None:
    other.issue()
    assert await ask(ports, other.file) == "done"
    with pytest.raises(errors.Unavailable):
        await ask(ports, trusted.file)


async def test_a_certificate_that_is_gone_or_half_written_leaves_the_old_one(
    ports: dict[str, int], trusted: Authority, tmp_path: Path
) -> None:
    for text in ("half", None):
        for name in ("tls.crt", "tls.key"):
            if text is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_text(text)
        assert await ask(ports, trusted.file) == "done"


async def test_probes_stay_in_plaintext(ports: dict[str, int], trusted: Authority) -> None:
    for port, ca_file in (("health", None), ("grpc", trusted.file)):
        async with open_channel(f"127.0.0.1:{ports[port]}", ca_file) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_command_line_trusts_the_file_that_its_environment_names(
    ports: dict[str, int], trusted: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{ports['grpc']}"
    for service in ("FEATURES", "MMD", "FINETUNING"):
        monkeypatch.setenv(f"VFMALIGN_{service}_ADDRESS", address)
    monkeypatch.setenv("VFMALIGN_CA_FILE", str(trusted.file))
    target = Target.find(StateDirectory(tmp_path))

    async def compute(client: AsyncClient) -> str:
        return (await client.mmd.compute("x", "y", pairing="paired")).primary_layer

    assert await asyncio.to_thread(target.run, compute) == "done"
    assert await asyncio.to_thread(get_health, address, target.ca_file) == "serving"
    assert await asyncio.to_thread(get_health, address) == "unreachable"


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("tls.crt", None, "VFMALIGN_SERVER__TLS_KEY_FILE is wrong: the certificate and the key must be set together"),
        (None, "tls.key", "VFMALIGN_SERVER__TLS_KEY_FILE is wrong: the certificate and the key must be set together"),
        ("tls.crt", "absent", "VFMALIGN_SERVER__TLS_KEY_FILE is wrong: path does not point to a file"),
        ("absent", "tls.key", "VFMALIGN_SERVER__TLS_CERT_FILE is wrong: path does not point to a file"),
        (
            "tls.crt",
            "other.pem",
            "VFMALIGN_SERVER__TLS_KEY_FILE is wrong: the key file must contain the unencrypted PEM",
        ),
    ],
)
def test_a_pair_that_does_not_fit_ends_the_process_with_one_sentence(
    tmp_path: Path,
    trusted: Authority,
    other: Authority,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    certificate: str | None,
    key: str | None,
    said: str,
) -> None:
    trusted.issue()
    store = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    files = {"CERT": certificate, "KEY": key}
    given = {f"VFMALIGN_SERVER__TLS_{name}_FILE": str(tmp_path / file) for name, file in files.items() if file}
    for name, value in (store | given).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(said)
