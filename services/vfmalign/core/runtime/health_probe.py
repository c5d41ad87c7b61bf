"""`python -m vfmalign.core.runtime.health_probe`: asks this container's service on its health port whether it serves.

Exit code 0 where it does, 1 where it does not, with one sentence. For `HEALTHCHECK`; Kubernetes asks the port itself.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.core.runtime.settings import ServerSettings, Settings, load

TIMEOUT_S = 5.0


class ProbeSettings(Settings):
    """Where the service listens: the same variables as the service's own."""

    server: ServerSettings = ServerSettings()


def main() -> int:
    """Asks once; returns the exit code."""
    port = load(ProbeSettings).server.health_port
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            print(f"port {port} does not answer ({error.code().name})", file=sys.stderr)  # noqa: T201
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"port {port} answers that it does not serve yet, or any more", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
