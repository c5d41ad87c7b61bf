"""`python -m vfmalign.core.runtime.health_probe`: check that this container's service is ready.

The exit code is 0 if the service is ready. If the service is not ready, the exit code is 1, and stderr contains one
sentence. The images' `HEALTHCHECK` uses this module. Kubernetes probes the health port directly.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.core.runtime.settings import ServerSettings, Settings, load

TIMEOUT_S = 5.0


class ProbeSettings(Settings):
    """Ports of the service, read from the service's environment variables."""

    server: ServerSettings = ServerSettings()


def main() -> int:
    """Runs one check and returns the exit code."""
    port = load(ProbeSettings).server.health_port
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            print(f"port {port} does not answer ({error.code().name})", file=sys.stderr)  # noqa: T201
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"the service at port {port} is not ready: it is starting or shutting down", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
