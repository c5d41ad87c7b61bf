"""The key of a local stack that signs the results of checks with a plan."""

from __future__ import annotations

from pathlib import Path

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.tokens import OWNER
from vfmalign.cli.private_files import write_private


def get_key_file(folder: Path) -> Path:
    """Returns the file of the private key in a folder of tokens. Only the finetuning service gets this key."""
    return folder / "finetuning" / "signing.key"


def get_public_key_file(folder: Path) -> Path:
    """Returns the file of the public key in a folder of tokens. Give this key to those who verify statements."""
    return folder / OWNER / "signing.pub"


def ensure(folder: Path, *, renew: bool = False) -> None:
    """Draws an ECDSA P-256 key pair, as PEM, unless the folder of tokens has one. `renew` replaces it.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    if get_key_file(folder).exists() and not renew:
        return
    with needs_extra("local", "a local stack"):
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    key = generate_private_key(SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_private(get_public_key_file(folder), public)  # first: after an interruption, both are drawn again
    write_private(get_key_file(folder), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
