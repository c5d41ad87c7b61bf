"""Tracks which callers use each connection of the API, and closes connections.

If a client does not read the answer of a call, gRPC's server cannot end the call. Only the status ends a call, and the
status waits behind the answer (ADR 0084). The server can only close the connection, which ends all calls on it. If
several callers share a connection, for example through a proxy, the server never closes the connection because of one
caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_DESCRIPTORS = "/dev/fd"
_GATHER_S = 0.05
"""Seconds to collect connections before closing them together: every search looks at all descriptors of the process."""


class Connections:
    """Open connections with their callers.

    Attributes:
        port: the server's own port. While the port is unknown, `port` is 0 and no connection can be closed.
    """

    def __init__(self) -> None:
        self.port = 0
        self._callers: dict[str, Counter[str]] = {}
        self._closing: set[str] = set()

    @contextmanager
    def joined(self, peer: str, caller: str) -> Iterator[None]:
        """Counts a caller's call on a connection while the block runs.

        Args:
            peer: address of the client in gRPC's format, such as `ipv4:10.0.0.1:40000`.
            caller: who calls.
        """
        callers = self._callers.setdefault(peer, Counter())
        callers[caller] += 1
        try:
            yield
        finally:
            callers[caller] -= 1
            if not callers[caller]:
                del callers[caller]
            if not callers:
                self._callers.pop(peer, None)

    def close(self, peer: str) -> bool:
        """Schedules the closing of a connection, unless several callers share it.

        Returns whether the connection will be closed.
        """
        if not self.port or len(self._callers.get(peer, ())) > 1:
            return False
        if not self._closing:
            loop = asyncio.get_running_loop()
            loop.call_later(_GATHER_S, lambda: loop.run_in_executor(None, self._close_all, self._take()))
        self._closing.add(peer)
        return True

    def _take(self) -> set[str]:
        peers, self._closing = self._closing, set()
        return peers

    def _close_all(self, peers: set[str]) -> None:
        for name in os.listdir(_DESCRIPTORS):
            with contextlib.suppress(OSError), _open_duplicate(int(name)) as duplicate:
                own, client = duplicate.getsockname(), duplicate.getpeername()
                if isinstance(own, tuple) and own[1] == self.port and _to_peer(client) in peers:
                    duplicate.shutdown(socket.SHUT_RDWR)


def _open_duplicate(descriptor: int) -> socket.socket:
    """Returns a duplicate of a socket: a descriptor may be closed and reused at any time, its duplicate stays.

    Raises:
        OSError: the descriptor is closed, or not a socket.
    """
    duplicate = os.dup(descriptor)
    try:
        # The family given here only makes room for long addresses; the kernel keeps the socket's real family.
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=duplicate)
    except OSError:  # `socket.fromfd` leaves the duplicate open here
        os.close(duplicate)
        raise


def _to_peer(address: tuple[str, int]) -> str:
    """Returns the address of a client as gRPC names it."""
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return f"ipv4:{ip}:{address[1]}" if ip.version == 4 else f"ipv6:%5B{ip}%5D:{address[1]}"
