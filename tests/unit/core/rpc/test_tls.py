"""TLS of the API port, over a real socket, with certificates of a throwaway authority."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.cli.local.probes import get_health
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient, ComputeOptions
from vfmalign.core.domain import errors
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.server import serve
from vfmalign.core.rpc.tls import TlsFiles, open_channel
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings, load
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc


class Authority:
    """An authority in a folder; what it issues replaces the server's certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self._folder = folder

    def issue(self, name: str = "tls") -> tuple[Path, Path]:
        issued = self._ca.issue_cert("127.0.0.1")
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "trusted")


@pytest.fixture
def callers(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "callers")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


class Answering(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with the address of the caller's connection; a call about `slow` once it may."""

    def __init__(self) -> None:
        self.started, self.may_end = asyncio.Event(), asyncio.Event()

    async def Compute(self, request: mmd_pb2.ComputeRequest, context: Any) -> mmd_pb2.ComputeResponse:
        if "slow" in str(request):
            self.started.set()
            await self.may_end.wait()
        return mmd_pb2.ComputeResponse(estimator=mmd_pb2.ESTIMATOR_BIASED, primary_layer=context.peer())


@pytest.fixture
def servicer() -> Answering:
    return Answering()


@pytest.fixture
async def ports(tmp_path: Path, trusted: Authority, servicer: Answering) -> AsyncIterator[dict[str, int]]:
    async with serving(servicer, tmp_path, trusted) as found:
        yield found


@pytest.fixture
async def mutual(
    tmp_path: Path, trusted: Authority, callers: Authority, servicer: Answering
) -> AsyncIterator[dict[str, int]]:
    """Ports of a server that serves holders of certificates of `callers` alone."""
    async with serving(servicer, tmp_path, trusted, tls_client_ca_file=callers.file) as found:
        yield found


@asynccontextmanager
async def serving(
    servicer: Answering, tmp_path: Path, authority: Authority, **tls: Any
) -> AsyncIterator[dict[str, int]]:
    certificate, key = authority.issue()
    ports_file = tmp_path / "ports.json"
    server = {"grpc_port": 0, "metrics_port": 0, "health_port": 0, "ports_file": ports_file}
    settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(**server, tls_cert_file=certificate, tls_key_file=key, **tls),
    )

    def add(server: grpc.aio.Server) -> list[Any]:
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(servicer, server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    task = asyncio.create_task(serve("test", settings, add))
    while not ports_file.exists():
        await asyncio.sleep(0.01)
        assert not task.done()
    yield json.loads(ports_file.read_text())
    os.kill(os.getpid(), signal.SIGTERM)
    await task


async def ask(ports: dict[str, int], ca_file: Path | None, *pair: Path) -> str:
    files = None if ca_file is None else TlsFiles(ca_file, *pair)
    async with connect(f"127.0.0.1:{ports['grpc']}", files=files) as channel:
        answer = await mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest())
    return str(answer.primary_layer)


async def test_who_trusts_the_authority_is_served(ports: dict[str, int], trusted: Authority) -> None:
    assert await ask(ports, trusted.file)


async def test_who_trusts_another_or_speaks_in_plaintext_is_not(ports: dict[str, int], other: Authority) -> None:
    for ca_file in (other.file, None):
        with pytest.raises(errors.Unavailable, match=r"MmdService.*VFMALIGN_CA_FILE names its authority"):
            await ask(ports, ca_file)


async def test_a_command_prints_one_sentence_about_a_failed_handshake(ports: dict[str, int], other: Authority) -> None:
    variables = {"VFMALIGN_FINETUNING_ADDRESS": f"127.0.0.1:{ports['grpc']}", "VFMALIGN_CA_FILE": str(other.file)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vfmalign.cli", "jobs", "list"),
        env={name: value for name, value in os.environ.items() if not name.startswith("GRPC_")} | variables,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out == b""
    assert b"VFMALIGN_CA_FILE names its authority" in err
    assert b"ssl_transport_security" not in err, "gRPC writes lines of its own"


async def test_a_renewed_certificate_counts_at_once(
    ports: dict[str, int], trusted: Authority, other: Authority
) -> None:
    other.issue()
    assert await ask(ports, other.file)
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
        assert await ask(ports, trusted.file)


async def test_mutual_tls_serves_holders_of_a_certificate_of_the_named_authority(
    mutual: dict[str, int], trusted: Authority, callers: Authority, other: Authority
) -> None:
    assert await ask(mutual, trusted.file, *callers.issue("caller"))
    for pair in ((), other.issue("stranger"), trusted.issue("another-server")):
        with pytest.raises(errors.Unavailable, match="VFMALIGN_CERT_FILE and VFMALIGN_KEY_FILE name"):
            await ask(mutual, trusted.file, *pair)


async def test_a_new_authority_of_callers_counts_at_once(
    mutual: dict[str, int], trusted: Authority, callers: Authority, other: Authority
) -> None:
    pair = other.issue("caller")
    callers.file.write_bytes(other.file.read_bytes())
    assert await ask(mutual, trusted.file, *pair)


async def test_a_client_presents_its_renewed_certificate_and_ends_its_calls_on_the_old_connection(
    mutual: dict[str, int], trusted: Authority, callers: Authority, servicer: Answering
) -> None:
    certificate, key = callers.issue("caller")

    async def call(uri: str) -> str:
        return (await client.mmd.compute(uri, "y", ComputeOptions(pairing="paired"))).primary_layer

    address = f"127.0.0.1:{mutual['grpc']}"
    async with AsyncClient(mmd_address=address, ca_file=trusted.file, cert_file=certificate, key_file=key) as client:
        first = await call("x")
        assert await call("x") == first, "one connection"
        slow = asyncio.create_task(call("slow"))
        await servicer.started.wait()
        callers.issue("caller")
        second = await call("x")
        assert second != first
        assert await call("x") == second
        certificate.unlink()  # as while it is being replaced
        assert await call("x") == second
        servicer.may_end.set()
        assert await slow == first


async def test_probes_stay_in_plaintext(ports: dict[str, int], trusted: Authority) -> None:
    for port, files in (("health", None), ("grpc", TlsFiles(trusted.file))):
        async with open_channel(f"127.0.0.1:{ports[port]}", files) as channel:
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
        return (await client.mmd.compute("x", "y", ComputeOptions(pairing="paired"))).primary_layer

    assert await asyncio.to_thread(target.run, compute)
    assert await asyncio.to_thread(get_health, address, target.files) == "serving"
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


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SERVER__TLS_CLIENT_CA": "other.pem"}, "VFMALIGN_SERVER__TLS_CLIENT_CA_FILE is wrong: the API has no certif"),
        (
            {"CERT": "tls.crt", "KEY": "tls.key"},
            "VFMALIGN_KEY_FILE is wrong: a certificate can only be presented over TLS",
        ),
        ({"CA": "other.pem", "CERT": "tls.crt"}, "VFMALIGN_KEY_FILE is wrong: the certificate and the key must be set"),
    ],
)
def test_files_that_miss_another_one_end_the_process_with_one_sentence(
    tmp_path: Path,
    trusted: Authority,
    other: Authority,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    said: str,
) -> None:
    trusted.issue()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    for name in ("FEATURES", "MMD"):
        monkeypatch.setenv(f"VFMALIGN_{name}_ADDRESS", "127.0.0.1:9")
    for name, file in variables.items():
        monkeypatch.setenv(f"VFMALIGN_{name}_FILE", str(tmp_path / file))
    with pytest.raises(SystemExit):
        load(FinetuningSettings)
    assert capsys.readouterr().err.startswith(said)
