"""The S3 server that we start: its secrets, and what a kill and a restart leave."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import grpc
import psutil
import pytest
from pydantic import SecretStr

from vfmalign.cli.local import certificates, s3_configuration, s3_server
from vfmalign.core.domain.errors import PreconditionFailed, StoreRefused, Unavailable
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore


def settings_of(server: s3_server.S3Server) -> StoreSettings:
    return StoreSettings(
        bucket="kept",
        endpoint=server.endpoint,
        access_key=server.access_key,
        secret_key=SecretStr(server.secret_key),
        region="us-east-1",
    )


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[list[int]]:
    """Process ids to end whatever happens."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        s3_server.stop(pid, grace_s=0)


def test_a_kill_and_a_restart_keep_data_address_and_keys(tmp_path: Path, killed: list[int]) -> None:
    process, first = s3_server.start(tmp_path / "s3")
    killed.append(first.pid)
    store = ObjectStore(settings_of(first))
    store.ensure_bucket()
    refs = [store.put(f"object-{i}", os.urandom(50_000)) for i in range(20)]
    assert store.put_if_absent("once", b"first")

    with pytest.raises(Unavailable, match="is in use"):
        s3_server.start(tmp_path / "s3")
    assert process.poll() is None

    os.killpg(first.pid, signal.SIGKILL)
    process.wait()
    down = ObjectStore(settings_of(first), attempts=2)

    def count_failures() -> float | None:
        return metrics.REGISTRY.get_sample_value("vfmalign_store_failures_total", {"operation": "get"})

    failures = count_failures() or 0
    with pytest.raises(Unavailable, match="does not answer") as caught:
        down.get("object-0")
    assert caught.value.retry_after_s is not None
    assert first.secret_key not in str(caught.value)
    assert count_failures() == failures + 1

    process, second = s3_server.start(tmp_path / "s3")
    killed.append(second.pid)
    assert (second.endpoint, second.access_key, second.secret_key) == (
        first.endpoint,
        first.access_key,
        first.secret_key,
    )
    for ref in refs:
        store.get(ref.key, sha256=ref.sha256)
    assert not store.put_if_absent("once", b"second")
    s3_server.stop(second.pid, grace_s=0)
    process.wait()


def find_sockets(pid: int, folder: Path) -> set[Path]:
    """The paths of the Unix sockets on which a server listens."""
    connections = psutil.Process(pid).net_connections(kind="unix")
    return {folder / str(connection.laddr) for connection in connections if connection.laddr}


def test_secrets_and_sockets_are_for_the_owner_alone(tmp_path: Path, killed: list[int]) -> None:
    process, server = s3_server.start(tmp_path / "s3")
    killed.append(server.pid)
    sockets = find_sockets(server.pid, tmp_path / "s3")
    assert len(sockets) == 6
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / "s3").stat().st_mode) == 0o700
    private = [path for pattern in ("*.json", "*.toml", "tls/*") for path in (tmp_path / "s3").glob(pattern)]
    assert len(private) == 6
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    command_line = Path(f"/proc/{server.pid}/cmdline")
    if command_line.exists():
        assert server.secret_key.encode() not in command_line.read_bytes()
    assert server.secret_key not in (tmp_path / "s3" / "s3.log").read_text()
    assert server.endpoint.startswith("http://127.0.0.1:")
    s3_server.stop(server.pid, grace_s=0)
    process.wait()
    assert [path for path in sockets if path.exists() and path.parent != tmp_path / "s3"] == []


def get_listening_ports(pid: int) -> set[int]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def read_over_tls(port: int, folder: Path, identity: certificates.Identity | None) -> bytes:
    """What a port answers to a client that verifies nothing; empty if it refuses the client's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        (folder / "pair.pem").write_bytes(identity.certificate + identity.key)
        context.load_cert_chain(folder / "pair.pem")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        try:
            with context.wrap_socket(line) as channel:
                channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return channel.recv(1000)
        except (ssl.SSLError, ConnectionError):
            return b""


def read_plain(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            return line.recv(1000)
    return b""


async def get_grpc_code(port: int) -> grpc.StatusCode:
    """The status of a call without TLS: UNIMPLEMENTED comes from a server that takes it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await channel.unary_unary("/filer_pb.SeaweedFiler/None")(b"", timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_stranger_gets_nothing_from_any_port(s3: s3_server.S3Server, tmp_path: Path) -> None:
    s3_port = int(s3.endpoint.rpartition(":")[2])
    internal_ports = get_listening_ports(s3.pid) - {s3_port}
    assert len(internal_ports) == 7
    for port in internal_ports:
        assert read_over_tls(port, tmp_path, None) == b""
        assert read_over_tls(port, tmp_path, certificates.issue()) == b""
        answer = read_plain(port)
        assert not answer or answer.startswith(b"HTTP/1.0 400") or not answer.startswith(b"HTTP/"), answer
        assert await get_grpc_code(port) == grpc.StatusCode.UNAVAILABLE
    assert read_plain(s3_port).startswith(b"HTTP/1.0 403")
    for wrong in ({"secret_key": SecretStr("a guess")}, {"access_key": "stranger"}):
        with pytest.raises(StoreRefused):
            ObjectStore(settings_of(s3).model_copy(update=wrong)).put("x", b"")


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10**12, used=10**12 - 1000, free=1000)
    monkeypatch.setattr(s3_server.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Unavailable, match="needs 1,024 MiB of free disk space, 0 MiB are free") as caught:
        s3_server.start(tmp_path / "s3")
    assert (caught.value.reason, caught.value.subject) == ("DISK_FULL", str(tmp_path / "s3"))
    assert caught.value.remedy.startswith("free 1,024 MiB")
    assert list((tmp_path / "s3").iterdir()) == []


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionFailed, match="weed"):
        s3_server.start(tmp_path / "s3")


def test_a_program_that_ends_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Unavailable, match="did not start"):
        s3_server.start(tmp_path / "s3")
    assert (tmp_path / "s3" / "s3.log").read_text() == "broken\n"  # once: other ports would not help


def race_for_ports(monkeypatch: pytest.MonkeyPatch, lost: list[tuple[int, int]]) -> list[list[int]]:
    """Lets somebody else take a port between its choice and its use.

    Args:
        monkeypatch: replaces the choice of ports.
        lost: position and number of the taken port, for each of the first choices.

    Returns:
        The choices, as they are made.
    """
    choices: list[list[int]] = []
    choose = s3_configuration.free_ports

    def free_ports(count: int) -> list[int]:
        choices.append(choose(count))
        if len(choices) <= len(lost):
            position, number = lost[len(choices) - 1]
            choices[-1][position] = number
        return choices[-1]

    monkeypatch.setattr(s3_configuration, "free_ports", free_ports)
    monkeypatch.setattr(s3_server, "port_is_free", lambda port: True)
    return choices


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_first_start_draws_other_ports_where_it_loses_one(
    tmp_path: Path, killed: list[int], s3: s3_server.S3Server, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second choice has the S3 port of another such server, whose answer must not be taken for one's own.
    choices = race_for_ports(monkeypatch, [(1, taken), (6, int(s3.endpoint.rpartition(":")[2]))])
    process, server = s3_server.start(tmp_path / "s3")
    killed.append(server.pid)
    assert len(choices) == 3
    assert server.endpoint == f"http://127.0.0.1:{choices[2][6]}"
    ObjectStore(settings_of(server)).ensure_bucket()
    s3_server.stop(server.pid, grace_s=0)
    process.wait()
    monkeypatch.undo()
    process, again = s3_server.start(tmp_path / "s3")
    killed.append(again.pid)
    assert again.endpoint == server.endpoint
    s3_server.stop(again.pid, grace_s=0)
    process.wait()


def test_a_first_start_gives_up_after_some_choices(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = race_for_ports(monkeypatch, [(1, taken)] * 100)
    with pytest.raises(Unavailable, match="another process took one of its ports") as caught:
        s3_server.start(tmp_path / "s3")
    assert caught.value.reason == s3_server.ADDRESS_IN_USE
    assert len(choices) == 5


def test_a_store_that_comes_back_in_time_is_not_noticed(tmp_path: Path, killed: list[int]) -> None:
    process, server = s3_server.start(tmp_path / "s3")
    killed.append(server.pid)
    store = ObjectStore(settings_of(server), attempts=60)
    store.ensure_bucket()
    ref = store.put("kept", b"bytes")
    os.killpg(server.pid, signal.SIGKILL)
    process.wait()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(store.get(ref.key, sha256=ref.sha256)))
    reader.start()
    time.sleep(0.3)
    process, again = s3_server.start(tmp_path / "s3")
    killed.append(again.pid)
    reader.join(60)
    assert got == [b"bytes"]
    s3_server.stop(again.pid, grace_s=0)
    process.wait()
