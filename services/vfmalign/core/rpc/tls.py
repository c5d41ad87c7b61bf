"""TLS of servers and channels: server certificates that are reloaded when their files change, and trusted authorities.

TLS encrypts calls and authenticates the server. Clients present no certificates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from vfmalign.core.runtime import logs

_log = logs.get(__name__)


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Returns credentials that read the files at every handshake, so that renewing them needs no restart.

    Raises:
        OSError: a file cannot be read.
    """
    current = (key.read_bytes(), certificate.read_bytes())

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            pair = (key.read_bytes(), certificate.read_bytes())
        except OSError:
            _log.warning("certificate_unreadable")
            return None
        if pair == current:
            return None
        current = pair
        _log.info("certificate_renewed")
        return grpc.ssl_server_certificate_configuration([pair])

    first = grpc.ssl_server_certificate_configuration([current])
    # The type stubs lack None, which keeps the current certificate.
    return grpc.dynamic_ssl_server_credentials(first, renewed)  # type: ignore[arg-type]


def open_channel(address: str, ca_file: Path | None, **options: Any) -> grpc.aio.Channel:
    """Opens a channel that trusts only the authorities of a PEM file; without a file, a plaintext channel.

    Raises:
        OSError: the file cannot be read.
    """
    if ca_file is None:
        return grpc.aio.insecure_channel(address, **options)
    trusted = grpc.ssl_channel_credentials(root_certificates=ca_file.read_bytes())
    return grpc.aio.secure_channel(address, trusted, **options)
