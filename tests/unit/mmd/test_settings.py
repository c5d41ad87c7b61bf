"""Settings of the MMD service: object storage is optional, and a wrong address is still refused."""

from __future__ import annotations

import pytest

from vfmalign.core.runtime.settings import load, parser
from vfmalign.mmd.settings import MmdSettings


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", [None, ""])
def test_it_loads_without_object_storage(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", value)
    assert load(MmdSettings).store.endpoint == ""


def test_it_reads_an_address_as_the_other_services_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.hospital.example/")
    assert load(MmdSettings).store.endpoint == "https://s3.hospital.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "s3.hospital.example")
    with pytest.raises(SystemExit):
        load(MmdSettings)
    assert "AWS_ENDPOINT_URL_S3 is wrong" in capsys.readouterr().err


def test_help_says_what_works_without_it() -> None:
    lines = parser("mmd", MmdSettings).format_help().splitlines()
    (line,) = (line for line in lines if line.startswith("  AWS_ENDPOINT_URL_S3 "))
    assert "if not set, requests must contain their features (none)" in line
