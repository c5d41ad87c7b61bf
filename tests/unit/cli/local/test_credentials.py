"""Credentials of containers: every holder has keys of its own, those of an identity of the S3 server."""

from __future__ import annotations

import configparser
import json
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from vfmalign.cli.local import s3_configuration
from vfmalign.cli.local.credentials import main
from vfmalign.cli.local.signing_key import get_key_file, get_public_key_file
from vfmalign.cli.local.tokens import OWNER, ROLES, TokenFiles
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.access import StoreAccess
from vfmalign.core.storage.store.credentials import get_credential_provider
from vfmalign.finetuning.checks.signing import StatementSigner


def read_keys(folder: Path, holder: str) -> tuple[str, str]:
    """Returns access key and secret key of a holder."""
    parser = configparser.ConfigParser()
    parser.read(folder / holder / "credentials")
    return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]


def read_identities(folder: Path) -> dict[tuple[str, str], str]:
    """Returns the names of the S3 server's identities by their keys."""
    identities = json.loads((folder / "s3/identities.json").read_text())["identities"]
    return {(pair["accessKey"], pair["secretKey"]): one["name"] for one in identities for pair in one["credentials"]}


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_holder_has_the_keys_of_its_identity(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    names = {holder: read_identities(tmp_path)[read_keys(tmp_path, holder)] for holder in ROLES}
    assert names == {OWNER: "vfmalign"} | {name: name for name in ("features", "mmd", "finetuning", "monitoring")}
    assert len(read_identities(tmp_path)) == len(ROLES)


def test_a_folder_holds_what_its_holder_needs_alone(tmp_path: Path) -> None:
    main([str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {*ROLES, "s3", "dicom-gateway"}
    secrets = {holder: read_keys(tmp_path, holder)[1] for holder in ROLES}
    for holder in ROLES:
        files = read_all(tmp_path / holder)
        own = {
            "features": {"dicom-gateway/password", "dicom-gateway/ca.crt"},
            "finetuning": {"signing.key"},
            OWNER: {"signing.pub"},
        }
        assert files.keys() == {"token", "jwks.json", "credentials"} | own.get(holder, set())
        others = [secret for other, secret in secrets.items() if other != holder]
        assert not any(secret.encode() in content for secret in others for content in files.values())
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_service_reads_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(tmp_path)])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "mmd/credentials"))
    provider = get_credential_provider(StoreSettings(bucket="bucket", endpoint="http://s3:8333"))
    credentials = provider.retrieve()
    assert (credentials.access_key, credentials.secret_key) == read_keys(tmp_path, "mmd")
    main([str(tmp_path), "--renew"])
    assert provider.retrieve().access_key == read_keys(tmp_path, "mmd")[0], "keys are read again after a renewal"


def test_credentials_are_kept_until_they_are_renewed(tmp_path: Path) -> None:
    main([str(tmp_path)])
    first = read_all(tmp_path)
    main([str(tmp_path)])
    assert read_all(tmp_path) == first
    main([str(tmp_path), "--renew"])
    second = read_all(tmp_path)
    assert second.keys() == first.keys()
    assert [name for name in second if second[name] == first[name]] == ["s3/security.toml"], "it names files alone"


def test_the_key_that_signs_results_is_kept_until_it_is_renewed(tmp_path: Path) -> None:
    def read() -> tuple[bytes, bytes]:
        key = load_pem_private_key(get_key_file(tmp_path).read_bytes(), None)
        public = load_pem_public_key(get_public_key_file(tmp_path).read_bytes())
        assert key.public_key() == public
        return get_key_file(tmp_path).read_bytes(), get_public_key_file(tmp_path).read_bytes()

    main([str(tmp_path)])
    first = read()
    assert stat.S_IMODE(get_key_file(tmp_path).stat().st_mode) == 0o600
    assert StatementSigner.from_file(get_key_file(tmp_path)) is not None
    assert not [path for path in tmp_path.rglob("signing.key") if path.parent.name != "finetuning"]
    get_public_key_file(tmp_path).touch()
    main([str(tmp_path)])
    assert read() == first
    get_key_file(tmp_path).unlink()  # an interrupted run
    main([str(tmp_path)])
    second = read()
    main([str(tmp_path), "--renew"])
    assert len({first, second, read()}) == 3


def test_an_upgrade_gives_the_same_keys_their_new_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        older = dict.fromkeys(s3_configuration.SERVICE_ACCESS, StoreAccess(read=("old/",), write=()))
        patch.setattr(s3_configuration, "SERVICE_ACCESS", older)
        main([str(tmp_path)])
    keys = {holder: read_keys(tmp_path, holder) for holder in ROLES}
    assert "old/" in (tmp_path / "s3/identities.json").read_text()
    main([str(tmp_path)])
    assert {holder: read_keys(tmp_path, holder) for holder in ROLES} == keys
    assert "old/" not in (tmp_path / "s3/identities.json").read_text()


def test_the_dicom_gateway_has_its_certificate_and_the_password_that_features_sends(tmp_path: Path) -> None:
    main([str(tmp_path)])
    server, client = (read_all(tmp_path / folder) for folder in ("dicom-gateway", "features/dicom-gateway"))
    assert server.keys() == {"tls.crt", "tls.key", "password"}
    assert client["password"] == server["password"]
    assert len(client["password"]) == 40
    certificate = x509.load_pem_x509_certificate(server["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["dicom-gateway"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(client["ca.crt"]))


def test_an_upgrade_of_a_stack_without_a_dicom_gateway_keeps_the_rest(tmp_path: Path) -> None:
    main([str(tmp_path)])
    first = read_all(tmp_path)
    for folder in ("dicom-gateway", "features/dicom-gateway"):
        shutil.rmtree(tmp_path / folder)
    main([str(tmp_path)])
    second = read_all(tmp_path)
    assert second.keys() == first.keys()
    assert {name for name in second if second[name] != first[name]} == {
        name for name in first if "dicom-gateway" in name
    }


def test_a_run_that_was_interrupted_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(tmp_path)])

    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(s3_configuration, "renew_certificates", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main([str(tmp_path), "--renew"])
    partial = TokenFiles.find(tmp_path, OWNER).token.read_bytes()
    main([str(tmp_path)])
    assert TokenFiles.find(tmp_path, OWNER).token.read_bytes() != partial
    assert set(read_identities(tmp_path)) == {read_keys(tmp_path, holder) for holder in ROLES}
