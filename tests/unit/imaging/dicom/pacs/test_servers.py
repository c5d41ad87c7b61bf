"""How servers are configured: what is refused, and what the errors do not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from vfmalign.imaging.dicom.pacs.servers import PacsServer, PacsServers


def test_servers_are_named_by_their_key() -> None:
    servers = TypeAdapter(PacsServers).validate_python({"ward": {"url": "https://pacs.example/dicom-web/"}})
    assert servers == {"ward": PacsServer(name="ward", url="https://pacs.example/dicom-web")}
    for name in ("Ward", "", "1", "a" * 33, "a.b"):
        with pytest.raises(ValidationError):
            TypeAdapter(PacsServers).validate_python({name: {"url": "https://pacs.example"}})


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8042/dicom-web", "http://localhost:8042", "http://[::1]:8042", "https://pacs.example:8443/x"],
)
def test_addresses_that_are_accepted(url: str) -> None:
    assert PacsServer(name="ward", url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://pacs.example/dicom-web",
        "ftp://pacs.example",
        "pacs.example",
        "https://",
        "https://user:secret@pacs.example",
        "https://pacs.example/?a=b",
        "https://pacs.example/#a",
        "https://pacs.example:99999",
        "https://[::1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        PacsServer(name="ward", url=url)


def test_unencrypted_traffic_needs_a_setting() -> None:
    assert PacsServer(name="ward", url="http://pacs.example", allow_http=True).url == "http://pacs.example"


@pytest.mark.parametrize(
    "options",
    [
        {"username": "a"},
        {"password_file": Path("p")},
        {"username": "a", "password_file": Path("p"), "token_file": Path("t")},
        {"certificate_file": Path("c")},
        {"key_file": Path("k")},
        {"timeout_seconds": 0},
        {"unknown": 1},
    ],
)
def test_credentials_that_do_not_belong_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PacsServer(name="ward", url="https://pacs.example", **options)
