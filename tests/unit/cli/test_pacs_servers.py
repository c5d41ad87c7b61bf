"""The servers that a command knows by variables, and what is left of studies that were shown."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.pacs_proxy import Handler, respond, run_proxy

from vfmalign.cli.pacs_servers import download_few, find_server
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.settings import parse
from vfmalign.features.settings import FeaturesSettings

URL = "https://pacs.example/dicom-web"


def describe(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"VFMALIGN_DICOMWEB__{name}", value)


def test_the_command_reads_the_variables_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # the service alone has an object storage
    describe(monkeypatch, WARD__URL=f"{URL}/", WARD__TOKEN_FILE="~/token", WARD__TIMEOUT_SECONDS="5")
    server = find_server("ward")
    assert (server.name, server.url, server.timeout_seconds) == ("ward", URL, 5)
    assert server.token_file == tmp_path / "token"
    assert server == parse(FeaturesSettings).get_servers("default")["ward"]


def test_the_command_ignores_the_tenants_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    describe(monkeypatch, WARD__URL=URL, WARD__TENANTS="ward-3")  # of no deployment that the command knows
    assert find_server("ward").url == URL


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WARD__URL", "http://secret.example", "VFMALIGN_DICOMWEB__WARD__URL: is wrong: it must be https://"),
        ("WARD__URL", "https://user:secret", "VFMALIGN_DICOMWEB__WARD__URL: is wrong: it must be https://HOST/PATH"),
        ("WARD__USERNAME", "secret", "WARD__PASSWORD_FILE: is wrong: it belongs to USERNAME: set both or neither"),
        ("WARD__PASSWORD", "secret", "VFMALIGN_DICOMWEB__WARD__PASSWORD: is wrong"),
        ("WARD__TIMEOUT_SECONDS", "secret", "VFMALIGN_DICOMWEB__WARD__TIMEOUT_SECONDS: is wrong"),
        ("A-B__URL", URL, "VFMALIGN_DICOMWEB__A-B"),
        ("OTHER__USERNAME", "secret", "VFMALIGN_DICOMWEB__OTHER__URL: is not set"),
    ],
)
def test_a_wrong_variable_is_named_without_its_value(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(monkeypatch, **{"WARD__URL": URL, name: value})
    with pytest.raises(BadOption) as raised:
        find_server("ward")
    assert message in str(raised.value)
    assert raised.value.remedy
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ward", "choose one of other, or set VFMALIGN_DICOMWEB__WARD__URL"),
        ("my ward", "choose one of other, or set VFMALIGN_DICOMWEB__NAME__URL"),
    ],
)
def test_the_error_for_an_unknown_server_names_the_others_and_the_variable(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadOption) as raised:
        find_server("ward")
    assert raised.value.remedy.startswith("set VFMALIGN_DICOMWEB__WARD__URL")
    describe(monkeypatch, OTHER__URL=URL)
    with pytest.raises(BadOption) as raised:
        find_server(name)
    assert raised.value.remedy.startswith(remedy)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "a closed terminal"])
def test_what_was_downloaded_to_be_shown_is_deleted_when_the_command_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    folders: list[Path] = []

    def end_command(handler: Handler) -> bool:
        folders.extend(temporary.iterdir())
        os.kill(os.getpid(), number)
        return respond(503)(handler)

    inherited = signal.signal(number, signal.SIG_DFL)  # it may be ignored, as under `nohup`
    try:
        with run_proxy(0) as proxy:
            proxy.fault = end_command
            describe(monkeypatch, WARD__URL=f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(KeyboardInterrupt), download_few("ward", ["PatientID=1"], 20):
                pass
        assert len(folders) == 1
        assert list(temporary.iterdir()) == []
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
