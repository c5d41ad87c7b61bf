"""TLS between our processes: a server's certificate, read again when its files change, and the authorities of a caller.

Knows PEM files and gRPC's credentials. Knows nothing of who issues certificates, and asks callers for none: this
encrypts and proves who the server is; it authenticates no caller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from vfmalign.core.runtime import logs

_log = logs.get(__name__)


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Credentials of a server; what the files hold at a handshake counts, so that renewing them needs no restart.

    Raises:
        OSError: a file cannot be read.
    """
    current = (key.read_bytes(), certificate.read_bytes())

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            found = (key.read_bytes(), certificate.read_bytes())
        except OSError:
            _log.warning("certificate_unreadable")
            return None
        if found == current:
            return None
        current = found
        _log.info("certificate_renewed")
        return grpc.ssl_server_certificate_configuration([found])

    first = grpc.ssl_server_certificate_configuration([current])
    # The stubs forget that None is allowed: it keeps what there is.
    return grpc.dynamic_ssl_server_credentials(first, renewed)  # type: ignore[arg-type]


def open_channel(address: str, ca_file: Path | None, **options: Any) -> grpc.aio.Channel:
    """A channel that trusts the authorities of a PEM file, and them alone; one in plaintext without a file.

    Raises:
        OSError: the file cannot be read.
    """
    if ca_file is None:
        return grpc.aio.insecure_channel(address, **options)
    trusted = grpc.ssl_channel_credentials(root_certificates=ca_file.read_bytes())
    return grpc.aio.secure_channel(address, trusted, **options)
