"""Identities of both sides: the hospital's own authority, client certificates, tokens and passwords from files."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.pacs_proxy import Handler, PacsProxy, run_proxy

from vfmalign.core.domain.errors import PacsRefused
from vfmalign.imaging.dicom.pacs.client import PacsClient, PacsLimits
from vfmalign.imaging.dicom.pacs.servers import PacsServer

LIMITS = PacsLimits(attempts=1)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """Files of a client that the server knows."""
    certificate = authority.issue_cert("importer@hospital.example")
    paths = {name: tmp_path / name for name in ("ca_file", "certificate_file", "key_file")}
    authority.cert_pem.write_to_path(paths["ca_file"])
    certificate.cert_chain_pems[0].write_to_path(paths["certificate_file"])
    certificate.private_key_pem.write_to_path(paths["key_file"])
    return paths


@pytest.fixture
def proxy(authority: trustme.CA) -> Iterator[PacsProxy]:
    """A server that requires certificates and finds nothing."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with run_proxy(0, context) as proxy:
        proxy.fault = lambda handler: handler.answer(200, b"[]", Content_Type="application/dicom+json")
        yield proxy


def search(proxy: PacsProxy, **options: Any) -> list[Any]:
    scheme = options.pop("scheme", "https")
    server = PacsServer(name="ward", url=f"{scheme}://localhost:{proxy.port}", **options)
    return list(PacsClient(server, LIMITS).find_studies({"PatientID": "*"}))


def test_both_sides_show_certificates_of_the_hospital(proxy: PacsProxy, files: dict[str, Path]) -> None:
    assert search(proxy, **files) == []
    assert len(proxy.requests) == 1


def test_a_server_of_another_authority_is_refused(proxy: PacsProxy, files: dict[str, Path]) -> None:
    options = {name: path for name, path in files.items() if name != "ca_file"}
    with pytest.raises(PacsRefused, match="TLS handshake"):
        search(proxy, **options)
    assert proxy.requests == []


def test_another_host_than_that_of_the_certificate_is_refused(proxy: PacsProxy, files: dict[str, Path]) -> None:
    server = PacsServer(name="ward", url=f"https://127.0.0.1:{proxy.port}", **files)
    with pytest.raises(PacsRefused, match="TLS handshake"):
        list(PacsClient(server, LIMITS).find_studies({"PatientID": "*"}))
    assert proxy.requests == []


@pytest.mark.parametrize("name", ["ca_file", "certificate_file", "key_file"])
def test_a_file_that_cannot_be_read_is_named(proxy: PacsProxy, files: dict[str, Path], name: str) -> None:
    files[name].write_text("no PEM")
    with pytest.raises(PacsRefused, match="CA_FILE, CERTIFICATE_FILE or KEY_FILE"):
        search(proxy, **files)


def test_tokens_and_passwords_are_read_at_each_use(tmp_path: Path) -> None:
    received: list[str] = []

    def answer(handler: Handler) -> bool:
        received.append(handler.headers["Authorization"])
        return handler.answer(200, b"[]", Content_Type="application/json")

    with run_proxy(0) as proxy:
        proxy.fault = answer
        (secret := tmp_path / "secret").write_text("first\n")
        server = PacsServer(name="ward", url=f"http://localhost:{proxy.port}", token_file=secret)
        client = PacsClient(server, LIMITS)
        list(client.find_studies({"PatientID": "*"}))
        secret.write_text("second")
        list(client.find_studies({"PatientID": "*"}))
        search(proxy, scheme="http", username="röntgen", password_file=secret)
        secret.write_text("")
        with pytest.raises(PacsRefused, match="token or password is empty"):
            search(proxy, scheme="http", token_file=secret)
        secret.unlink()
        with pytest.raises(PacsRefused, match="cannot be read"):
            search(proxy, scheme="http", token_file=secret)
    assert received == ["Bearer first", "Bearer second", "Basic csO2bnRnZW46c2Vjb25k"]
