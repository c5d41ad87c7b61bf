"""A DNS server on the loopback interface, whose answers a test changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer


class NameServer(BaseResolver):
    """Answers every name with `addresses`; without any, as cluster DNS does for a headless Service without ready pods.

    Attributes:
        addresses: IPv4 addresses.
        look_ups: how often an IPv4 address was asked for.
    """

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.look_ups = 0
        self._server = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply"))

    @property
    def authority(self) -> str:
        """Address of this server in a gRPC target: `dns://AUTHORITY/name:port`."""
        return f"127.0.0.1:{self._server.server.server_address[1]}"

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answers one question."""
        reply = request.reply()
        if not self.addresses:
            reply.header.rcode = RCODE.NXDOMAIN
        if request.q.qtype == QTYPE.A:
            self.look_ups += 1
            for address in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address)))
        return reply

    @contextmanager
    def serve(self) -> Iterator[NameServer]:
        """Answers until the block ends."""
        self._server.start_thread()
        try:
            yield self
        finally:
            self._server.stop()
            self._server.server.server_close()
