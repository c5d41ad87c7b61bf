"""Finds free ports of the loopback interface, and chooses the ports of a stack's services."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vfmalign.cli.local.state_directory import ServicePorts
from vfmalign.core.domain.errors import Unavailable

ADDRESS_IN_USE = "ADDRESS_IN_USE"
"""Reason of the error for a port that another process has."""


@dataclass(frozen=True)
class PortChoice:
    """Rule for the choice of ports when a stack starts.

    By default, services keep their ports, and new services get free ports.

    Attributes:
        first: first of the new ports; 0 for the default. The new ports replace the kept ports of the services.
        any: whether a service uses free ports, only for this start, if its ports are taken.
    """

    first: int = 0
    any: bool = False

    def choose(self, services: Collection[str], kept: Mapping[str, ServicePorts]) -> dict[str, ServicePorts]:
        """Returns, for each service, the ports of its API, its metrics and its health checks.

        Raises:
            Unavailable: a port is taken.
        """
        chosen = number_ports(services, self.first) if self.first else {name: kept.get(name) for name in services}
        reserved = [port for ports in chosen.values() if ports for port in ports.model_dump().values()]
        result: dict[str, ServicePorts] = {}
        for name, ports in chosen.items():
            taken = [port for port in ports.model_dump().values() if not port_is_free(port)] if ports else []
            if taken and not self.any:
                raise Unavailable(
                    f"port {taken[0]} is taken by another process",
                    subject=name,
                    remedy="stop that process, choose other ports with `--port`, or use free ports with `--any-port`",
                    reason=ADDRESS_IN_USE,
                )
            if ports is None or taken:
                grpc, metrics, health = free_ports(3, reserved)
                reserved += [grpc, metrics, health]
                result[name] = ServicePorts(grpc=grpc, metrics=metrics, health=health)
            else:
                result[name] = ports
        return result


KEEP_PORTS = PortChoice()


def number_ports(services: Collection[str], first: int) -> dict[str, ServicePorts]:
    """Returns consecutive ports: all API ports first, then all metrics ports, then all health ports."""
    count = len(services)
    return {
        name: ServicePorts(grpc=first + place, metrics=first + count + place, health=first + 2 * count + place)
        for place, name in enumerate(services)
    }


def free_ports(count: int, reserved: Collection[int] = ()) -> list[int]:
    """Returns ports that are free now and not reserved.

    The ports are below the ephemeral range, so that no outgoing connection takes a port while a service restarts.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = 15_000 + secrets.randbelow(15_000)
        if port not in ports and port not in reserved and port_is_free(port):
            ports.append(port)
    return ports


def port_is_free(port: int) -> bool:
    """Returns whether no process listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
