"""Signs statements about checks: DSSE envelopes with an ECDSA P-256 key."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Record

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class SignedStatement(Record):
    """`checks/<id>/statement.dsse`: a DSSE envelope. The names of the fields are those of its specification."""

    payload: str
    payloadType: str
    signatures: tuple[dict[str, str], ...]


class StatementSigner:
    """Signs statements with one key.

    Args:
        key: ECDSA P-256 private key.
    """

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._signer = CryptoSigner(key)

    @classmethod
    def from_file(cls, file: Path | None) -> StatementSigner | None:
        """Reads the key of a deployment. Returns None if the deployment has no key.

        Raises:
            BadOption: the file does not contain an unencrypted ECDSA P-256 private key.
        """
        if file is None:
            return None
        try:
            key = load_pem_private_key(file.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise BadOption(
                "the file does not contain an unencrypted ECDSA P-256 private key",
                field="VFMALIGN_SIGNING__KEY_FILE",
                remedy="draw one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
            )
        return cls(key)

    def sign(self, statement: bytes) -> SignedStatement:
        """Signs an in-toto statement, encoded as JSON."""
        envelope = Envelope(statement, PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        return SignedStatement.model_validate(envelope.to_dict())
