"""The DICOM gateway's settings become a configuration of Orthanc that admits listed devices alone, to send."""

from __future__ import annotations

import importlib.util
import json
import re
from datetime import timedelta
from http.client import IncompleteRead
from pathlib import Path
from types import ModuleType

import pytest

START = Path(__file__).resolve().parents[2] / "deploy/dicom-gateway/start.py"


@pytest.fixture(scope="module")
def start() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_gateway_start", START)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_listed_devices_may_send_and_nothing_else(start: ModuleType) -> None:
    configuration = start.build_configuration({"DICOM_DEVICES": "MR1@10.1.2.3 CT.2#@fd00::2", "DICOM_MAX_GIB": "3"})
    devices = configuration["DicomModalities"]
    assert [(one["AET"], one["Host"]) for one in devices.values()] == [("MR1", "10.1.2.3"), ("CT.2#", "fd00::2")]
    assert all(re.fullmatch("[A-Za-z0-9_-]+", name) for name in devices)  # Orthanc ends at the start for others
    for device in devices.values():
        denied = {name for name, value in device.items() if name.startswith("Allow") and value is False}
        assert denied == {"AllowFind", "AllowFindWorklist", "AllowGet", "AllowMove", "AllowStorageCommitment"}
    assert configuration["DicomCheckModalityHost"] is True
    assert configuration["MaximumStorageSize"] == 3 * 1024
    assert not any(value for name, value in configuration.items() if name.startswith("DicomAlwaysAllow"))


def test_without_addresses_the_titles_alone_are_checked(start: ModuleType) -> None:
    configuration = start.build_configuration({"DICOM_DEVICES": "MR1 CT2", "DICOM_MAX_GIB": "3"})
    assert configuration["DicomCheckModalityHost"] is False
    assert [device["AET"] for device in configuration["DicomModalities"].values()] == ["MR1", "CT2"]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"DICOM_DEVICES": ""}, "DICOM_DEVICES is not set. List the devices"),
        ({"DICOM_DEVICES": "MR1 CT1@10.1.2.3"}, "state the address of every device, or of none"),
        ({"DICOM_DEVICES": "MR1 MR1"}, "'MR1' is not TITLE@ADDRESS or TITLE"),
        ({"DICOM_DEVICES": "A-TITLE-THAT-IS-TOO-LONG"}, "of at most 16 characters"),
        ({"DICOM_DEVICES": "MR1@host.example"}, "is not TITLE@ADDRESS"),
        ({"DICOM_DEVICES": "MR\\1"}, "is not TITLE@ADDRESS"),
        ({"DICOM_DEVICES": "MR1@999.1.2.3"}, "is not TITLE@ADDRESS"),
        ({"DICOM_DEVICES": "MR1@"}, "is not TITLE@ADDRESS"),
        ({"DICOM_AE_TITLE": ""}, "DICOM_AE_TITLE is ''. Set 1 to 16 characters"),
        ({"DICOM_AE_TITLE": "A-TITLE-THAT-IS-TOO-LONG"}, "DICOM_AE_TITLE"),
        ({"DICOM_MAX_GIB": "0"}, "DICOM_MAX_GIB is '0'. Set a whole number"),
        ({"DICOM_MAX_GIB": "ten"}, "DICOM_MAX_GIB is 'ten'"),
        ({"DICOM_MAX_GIB": "100000"}, "from 1 to 99999"),
    ],
)
def test_a_wrong_setting_is_named(start: ModuleType, variables: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        start.build_configuration({"DICOM_DEVICES": "MR1", "DICOM_MAX_GIB": "3"} | variables)


@pytest.mark.parametrize("password", [b"", b"\n", b"one\nroot:{PLAIN}two", b"\xff"])
def test_what_is_no_password_lets_nobody_in(
    start: ModuleType, password: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "STATE", tmp_path)
    with pytest.raises(ValueError, match="the password must have one line"):
        start.write_users(password)
    assert not (tmp_path / "users").exists()
    start.write_users(b"se:cret\n")
    assert (tmp_path / "users").read_bytes() == b"features:{SHA}pv2GBvjxKnVBICqTPkoqmG/ZwaE=\n"


@pytest.mark.parametrize("error", [OSError(), IncompleteRead(b""), json.JSONDecodeError("", "", 0)])
def test_what_orthanc_breaks_off_ends_nothing(
    start: ModuleType, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(before: object) -> int:
        raise error

    monkeypatch.setattr(start, "delete_studies", fail)
    start.delete_old(timedelta(days=99_999))  # the longest, which must not begin before there are dates
    assert json.loads(capsys.readouterr().out)["event"] == "studies_not_deleted"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("W1129 19:44:15.5         MAIN main.cpp:9] Reading: /tmp/x.json", "Reading: /tmp/x.json"),
        ("E1129 19:44:15.5       HTTP-3 dicom-web:/E.cpp:62] No such item: Study 1.2.3.4.5", "No such item"),
        (
            "W1129 19:44:15.5 7f3c637fe6c0 V.cpp:7] Ignoring (0010,0010) for VR DS: A^B",
            "Ignoring (0010,0010) for VR DS",
        ),
        ("W1129 19:44:15.5      DICOM-0 S.cpp:1] Study 1.2.840.10008.1 is gone", "Study UID is gone"),
        ("W1129 19:44:15.5 DICOM-SERVER C.cpp:6] Rejected AET EVIL on IP 10.0.0.1", "Rejected AET EVIL on IP 10.0.0.1"),
        ("Zauberberg^Walpurga", None),
    ],
)
def test_the_log_quotes_nothing(start: ModuleType, line: str, kept: str | None) -> None:
    shown = start.remove_details(f"{line}\n".encode()).decode()
    assert shown == (f"{line.partition('] ')[0]}] {kept}\n" if kept else "")
