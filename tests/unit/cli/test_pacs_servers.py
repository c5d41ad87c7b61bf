"""The user's file of servers: what is wrong with it, and who may read it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.pacs_proxy import Handler, respond, run_proxy

from vfmalign.cli.pacs_servers import FILE, download_few, find_server
from vfmalign.core.domain.errors import BadOption, PreconditionFailed

WARD = '[ward]\nurl = "https://pacs.example/dicom-web"\ntoken_file = "~/token"\ntimeout_seconds = 5\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "vfmalign").mkdir()
    return tmp_path / "vfmalign" / FILE


def write(file: Path, text: str, mode: int = 0o600) -> None:
    file.write_text(text)
    file.chmod(mode)


def test_a_server_is_found_by_name(file: Path, tmp_path: Path) -> None:
    write(file, WARD)
    server = find_server("ward")
    assert (server.name, server.url, server.timeout_seconds) == ("ward", "https://pacs.example/dicom-web", 5)
    assert server.token_file == tmp_path / "home/token"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ward", "not TOML"),
        ("ward = 1", "dicomweb.toml: ward"),
        ('[ward]\nurl = "http://pacs.example"', "dicomweb.toml: ward.url: it must be https://"),
        ('[Ward]\nurl = "https://pacs.example"', "dicomweb.toml: Ward"),
        ('[ward]\nurl = "https://pacs.example"\npassword = "secret"', "dicomweb.toml: ward.password"),
        ('[other]\nurl = "https://pacs.example"', "choose one of other"),
    ],
)
def test_what_is_wrong_is_named_without_values(file: Path, text: str, message: str) -> None:
    write(file, text)
    with pytest.raises(BadOption) as raised:
        find_server("ward")
    assert message in str(raised.value)
    assert raised.value.remedy
    assert "secret" not in str(raised.value)


def test_without_a_file_the_error_says_where_it_belongs(file: Path) -> None:
    with pytest.raises(BadOption, match=str(file)):
        find_server("ward")


def test_a_file_that_others_can_read_or_change_is_refused(file: Path) -> None:
    write(file, WARD, 0o644)
    with pytest.raises(PreconditionFailed, match="addresses of servers"):
        find_server("ward")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "a closed terminal"])
def test_what_was_downloaded_to_be_shown_is_deleted_when_the_command_is_ended(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
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
            write(file, f'[ward]\nurl = "http://127.0.0.1:{proxy.port}"\n')
            with pytest.raises(KeyboardInterrupt), download_few("ward", ["PatientID=1"], 20):
                pass
        assert len(folders) == 1
        assert list(temporary.iterdir()) == []
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
