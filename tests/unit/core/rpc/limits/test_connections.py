"""Which connections the server closes for the sake of a caller that does not take its answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from vfmalign.core.rpc.limits.connections import Connections


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def connected(request: pytest.FixtureRequest) -> Iterator[tuple[Connections, list[socket.socket], list[str]]]:
    """Connections to one port, the clients' ends of two of them, and these as gRPC names them."""
    family = socket.AF_INET if request.param == "127.0.0.1" else socket.AF_INET6
    with ExitStack() as sockets:
        listener = sockets.enter_context(
            socket.create_server(("::", 0), family=family, dualstack_ipv6=True)
            if family == socket.AF_INET6
            else socket.create_server(("127.0.0.1", 0))
        )
        port = listener.getsockname()[1]
        host = "127.0.0.1" if "127" in request.param else "::1"
        clients = [sockets.enter_context(socket.create_connection((host, port))) for _ in range(2)]
        for _ in clients:
            sockets.enter_context(listener.accept()[0])
        name = "ipv4:127.0.0.1" if "127" in request.param else "ipv6:%5B::1%5D"
        connections = Connections()
        connections.port = port
        yield connections, clients, [f"{name}:{client.getsockname()[1]}" for client in clients]


async def test_one_connection_is_closed_and_no_other(connected) -> None:
    connections, clients, peers = connected
    with connections.joined(peers[0], "eve"), connections.joined(peers[1], "eve"):
        assert connections.close(peers[0])
        clients[0].settimeout(30)
        assert await asyncio.to_thread(clients[0].recv, 1) == b""
        clients[1].setblocking(False)
        with pytest.raises(BlockingIOError):
            clients[1].recv(1)


async def test_a_connection_of_several_callers_is_not_closed(connected) -> None:
    connections, _, (peer, _) = connected
    with connections.joined(peer, "eve"):
        with connections.joined(peer, "ada"):
            assert not connections.close(peer)
        assert connections.close(peer)


async def test_closing_leaves_no_descriptor_behind(connected) -> None:
    connections, clients, peers = connected
    reader, writer = os.pipe()  # descriptors that are no sockets
    clients[0].settimeout(30)
    with connections.joined(peers[0], "eve"):
        await asyncio.to_thread(connections._close_all, {"nobody"})
        before = len(os.listdir("/proc/self/fd"))
        await asyncio.to_thread(connections._close_all, {peers[0]})
        assert clients[0].recv(1) == b""
        # Fewer, where a collector meanwhile closes what an earlier test has left.
        assert len(os.listdir("/proc/self/fd")) <= before
    os.close(reader)
    os.close(writer)


async def test_no_connection_of_another_port_is_closed(connected) -> None:
    connections, clients, (peer, _) = connected
    connections.port += 1
    assert connections.close(peer)
    await asyncio.sleep(0.2)
    clients[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        clients[0].recv(1)
