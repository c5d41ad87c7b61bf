"""Credentials of a trial stack that runs in containers.

One volume contains all of them. Each container mounts its own folder of the volume. The folder of a holder (`owner` or
a service) contains the holder's token, the public key of all tokens, and an AWS credentials file with the holder's keys
of the S3 server. The folder `s3` contains the identities of these keys, and the certificates that the internal ports of
the S3 server require. The folder `dicom-gateway` contains the certificate and the password of the DICOM gateway. The
folder `features` also contains this password and the certificate of the CA. The folder `finetuning` contains the key
that signs results, and the folder `owner` its public key.
"""

from __future__ import annotations

import argparse
import configparser
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local import s3_configuration, signing_key, tokens
from vfmalign.cli.local.tokens import OWNER, TokenFiles
from vfmalign.cli.private_files import write_private

S3_SERVER = "s3"
"""Folder of the S3 server, which runs in it."""
DICOM_GATEWAY = "dicom-gateway"
"""Folder of the DICOM gateway, and its name in the network; also that of its client's files in the client's folder."""


def renew(folder: Path) -> None:
    """Replaces all credentials of a folder by new credentials. Files have mode 0600, folders 0700.

    Services read their new credentials without a restart. The S3 server has to be restarted.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    server = folder / S3_SERVER
    (server / s3_configuration.SECURITY_FILE).unlink(missing_ok=True)  # written last: an interrupted run is repeated
    tokens.renew(folder)
    for holder in tokens.ROLES:
        write_private(_find_keys(folder, holder), _to_credentials_file(s3_configuration.draw_keys()).encode())
    server.mkdir(mode=0o700, exist_ok=True)
    s3_configuration.renew_certificates(server)


def renew_dicom_gateway(folder: Path) -> None:
    """Replaces the certificate and the password of the DICOM gateway.

    The gateway reads the new files without a restart.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    with needs_extra("local", "the DICOM gateway"):
        from vfmalign.cli.local import certificates
    identity, password = certificates.issue(DICOM_GATEWAY), secrets.token_urlsafe(30).encode()
    files = {"tls.crt": identity.certificate, "tls.key": identity.key, "password": password}
    _write_folder(folder / DICOM_GATEWAY, files)
    _write_folder(_find_dicom_client(folder), {"password": password, "ca.crt": identity.ca})


def _find_dicom_client(folder: Path) -> Path:
    return folder / "features" / DICOM_GATEWAY


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, content in files.items():
        write_private(folder / name, content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Creates the credentials of a folder if they are missing. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vfmalign.cli.local.credentials", description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--renew", action="store_true", help="replace existing credentials; restart the S3 server afterwards"
    )
    options = parser.parse_args(arguments)
    if options.renew or not _is_complete(options.folder):
        renew(options.folder)
    # By itself, because an upgrade of an older stack keeps its tokens and keys.
    if options.renew or not (_find_dicom_client(options.folder) / "ca.crt").exists():  # written last
        renew_dicom_gateway(options.folder)
    signing_key.ensure(options.folder, renew=options.renew)
    # At every start, because what a service may do changes with the version.
    keys = {holder: _read_keys(options.folder, holder) for holder in tokens.ROLES}
    s3_configuration.write_identities(options.folder / S3_SERVER, keys.pop(OWNER), keys)
    return 0


def _find_keys(folder: Path, holder: str) -> Path:
    return folder / holder / "credentials"


def _is_complete(folder: Path) -> bool:
    """Whether a run that was not interrupted has drawn everything that this version knows."""
    files = [folder / S3_SERVER / s3_configuration.SECURITY_FILE]
    for holder in tokens.ROLES:
        files += [TokenFiles.find(folder, holder).token, _find_keys(folder, holder)]
    return all(file.exists() for file in files)


def _to_credentials_file(keys: dict[str, str]) -> str:
    """Returns keys in the form in which AWS's programs and vfmalign read `AWS_SHARED_CREDENTIALS_FILE`."""
    return f"[default]\naws_access_key_id = {keys['access_key']}\naws_secret_access_key = {keys['secret_key']}\n"


def _read_keys(folder: Path, holder: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(_find_keys(folder, holder).read_text())
    stored = parser["default"]
    return {"access_key": stored["aws_access_key_id"], "secret_key": stored["aws_secret_access_key"]}


if __name__ == "__main__":
    sys.exit(main())
