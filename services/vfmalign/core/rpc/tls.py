"""TLS for servers and channels. Certificates are reloaded when their files change.

TLS encrypts calls and authenticates the server. If the server has authorities for its callers, a caller needs a token
and a certificate that one of these authorities signed (mutual TLS).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from vfmalign.core.runtime import logs

_log = logs.get(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files that a caller needs for TLS.

    Attributes:
        ca_file: the authorities that sign servers' certificates.
        cert_file, key_file: the caller's certificate chain and its unencrypted private key; None if the caller has no
            certificate.
    """

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None

    def get_version(self) -> tuple[tuple[int, int], ...]:
        """Returns a value that changes whenever one of the files is replaced.

        Raises:
            OSError: a file is missing.
        """
        files = (file for file in (self.ca_file, self.cert_file, self.key_file) if file is not None)
        return tuple((stat.st_ino, stat.st_mtime_ns) for stat in (file.stat() for file in files))

    def to_credentials(self) -> grpc.ChannelCredentials:
        """Reads the files and returns channel credentials.

        Raises:
            OSError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_file.read_bytes(),
            private_key=None if self.key_file is None else self.key_file.read_bytes(),
            certificate_chain=None if self.cert_file is None else self.cert_file.read_bytes(),
        )


def server_credentials(certificate: Path, key: Path, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """Returns credentials that read the files at every handshake. Renewed files therefore need no restart.

    Args:
        certificate: the server's own certificate chain.
        key: its unencrypted private key.
        client_ca: authorities that sign the callers' certificates. If None, callers need no certificate.

    Raises:
        OSError: a file cannot be read.
    """

    def read() -> tuple[bytes, bytes, bytes | None]:
        return key.read_bytes(), certificate.read_bytes(), None if client_ca is None else client_ca.read_bytes()

    def configure(files: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([files[:2]], root_certificates=files[2])

    current = read()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            files = read()
        except OSError:
            _log.warning("certificate_unreadable")
            return None
        if files == current:
            return None
        current = files
        _log.info("certificate_renewed")
        return configure(files)

    # The type stubs lack None, which keeps the current certificate.
    return grpc.dynamic_ssl_server_credentials(
        configure(current),
        renewed,  # type: ignore[arg-type]
        require_client_authentication=client_ca is not None,
    )


def open_channel(address: str, files: TlsFiles | None, **options: Any) -> grpc.aio.Channel:
    """Opens a channel that trusts only the authorities in `files`. Without files, opens a plaintext channel.

    Raises:
        OSError: a file cannot be read.
    """
    if files is None:
        return grpc.aio.insecure_channel(address, **options)
    return grpc.aio.secure_channel(address, files.to_credentials(), **options)
