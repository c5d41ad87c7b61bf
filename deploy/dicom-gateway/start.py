#!/usr/local/bin/python3.11
"""Run Orthanc as a gateway from DIMSE to DICOMweb, with nginx in front of its HTTP port, until one of them ends.

Variables: DICOM_DEVICES lists the AE titles that may send, separated by spaces, each as TITLE@ADDRESS or, if any
address may use it, as TITLE. DICOM_AE_TITLE is the title by which they call the gateway. DICOM_MAX_GIB and
DICOM_RETENTION_DAYS bound what the gateway keeps.

/run/vfmalign has `password` of the user `features`, `tls.crt` and `tls.key`, which may be renewed at any time. /data
has the instances and their index.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

SECRETS, STATE = Path("/run/vfmalign"), Path("/tmp/gateway")  # noqa: S108 - a volume of this container alone
ORTHANC = "http://127.0.0.1:8042"
USER = b"features"
DELETION_INTERVAL_S = 3600.0
FIRST_DELETION_S = 60.0
_TITLE = re.compile(r"[\x21-\x3f\x41-\x5b\x5d-\x7e]{1,16}")
"""An AE title without `@`, `\\` and spaces."""
_PASSWORD = re.compile(rb"[\x20-\x7e]{1,1024}")
_PREFIX = re.compile(rb"[A-Z]\d{4} [\d:.]+ +(\S+) \S+\] ")
"""Level, time, thread and place of a line of Orthanc's log."""
_UID = re.compile(rb"\d+(?:\.\d+){4,}")
_SENDS_ALONE = {f"Allow{name}": False for name in ("Find", "FindWorklist", "Get", "Move", "StorageCommitment")}


def build_configuration(variables: Mapping[str, str]) -> dict[str, Any]:
    """Returns the configuration of Orthanc.

    Raises:
        ValueError: a variable is missing or wrong; the text says which one and how it should look.
    """
    devices = _parse_devices(variables.get("DICOM_DEVICES", ""))
    return {
        "Name": "vfmalign DICOM gateway",
        "StorageDirectory": "/data",
        "IndexDirectory": "/data",
        "TemporaryDirectory": str(STATE),
        "MaximumStorageSize": 1024 * _parse_count(variables, "DICOM_MAX_GIB"),
        "MaximumStorageMode": "Recycle",
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, "Ssl": True},
        "HttpPort": 8042,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "OrthancExplorerEnabled": False,
        "WebDavEnabled": False,
        "ExecuteLuaEnabled": False,
        "SaveJobs": False,
        "DeidentifyLogs": True,
        "Warnings": {"W001_TagsBeingReadFromStorage": False},  # a line for each instance of an answer
        "DicomAet": _parse_title(variables.get("DICOM_AE_TITLE", "VFMALIGN")),
        "DicomPort": 4242,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomCheckModalityHost": all(devices.values()),
        # Orthanc ends at the start if a name has anything but letters, digits, `-` and `_`, as many AE titles have.
        "DicomModalities": {
            f"device-{number}": {"AET": title, "Host": address or "0.0.0.0", "Port": 104, **_SENDS_ALONE}  # noqa: S104
            for number, (title, address) in enumerate(devices.items(), start=1)
        },
    }


def _parse_devices(text: str) -> dict[str, str | None]:
    """Returns the addresses of devices by their AE titles."""
    devices: dict[str, str | None] = {}
    for device in text.split():
        title, separator, address = device.partition("@")
        if not _TITLE.fullmatch(title) or title in devices or (separator and not _is_address(address)):
            raise ValueError(f"DICOM_DEVICES: {device!r} is not TITLE@ADDRESS or TITLE, of at most 16 characters, or "
                             "repeats a title")  # fmt: skip
        devices[title] = address or None
    if not devices:
        raise ValueError("DICOM_DEVICES is not set. List the devices that may send, such as MR1@10.1.2.3")
    if len({address is None for address in devices.values()}) > 1:
        raise ValueError("DICOM_DEVICES: state the address of every device, or of none")
    return devices


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_title(text: str) -> str:
    if not _TITLE.fullmatch(text):
        raise ValueError(f"DICOM_AE_TITLE is {text!r}. Set 1 to 16 characters without spaces, @ and \\")
    return text


def _parse_count(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not re.fullmatch(r"[1-9]\d{0,4}", text):
        raise ValueError(f"{name} is {text!r}. Set a whole number from 1 to 99999")
    return int(text)


def read_secrets() -> tuple[bytes, ...]:
    """Returns password, certificate and key.

    Raises:
        OSError: one of the files is missing.
    """
    return tuple((SECRETS / name).read_bytes() for name in ("password", "tls.crt", "tls.key"))


def write_users(password: bytes) -> None:
    """Writes the users of nginx.

    Raises:
        ValueError: it is no password: nginx would let everybody in without one, and a second line would be a user.
    """
    text = password.strip()
    if not _PASSWORD.fullmatch(text):
        raise ValueError("the file of the password must have one line of 1 to 1024 printable ASCII characters")
    # Not as {PLAIN}: nginx ends a password at its first colon, and would take what stands before it for the whole.
    digest = hashlib.sha1(text, usedforsecurity=False).digest()
    (STATE / "users").write_bytes(b"%s:{SHA}%s\n" % (USER, base64.b64encode(digest)))


def delete_studies(before: datetime) -> int:
    """Deletes the studies of which nothing has arrived since a time; returns their number.

    Raises:
        OSError, HTTPException, ValueError: Orthanc does not answer, or breaks off.
    """
    with urllib.request.urlopen(f"{ORTHANC}/studies?expand", timeout=300) as answer:  # noqa: S310 - a constant
        studies = json.load(answer)
    old = [study["ID"] for study in studies if study["LastUpdate"] < before.strftime("%Y%m%dT%H%M%S")]
    for study in old:
        request = urllib.request.Request(f"{ORTHANC}/studies/{study}", method="DELETE")  # noqa: S310
        urllib.request.urlopen(request, timeout=300).close()  # noqa: S310
    return len(old)


def delete_old(retention: timedelta) -> None:
    """Deletes old studies, and logs how many, or that Orthanc does not answer."""
    try:
        if deleted := delete_studies(datetime.now(UTC) - retention):
            print(json.dumps({"event": "studies_deleted", "studies": deleted}), flush=True)
    except (OSError, HTTPException, ValueError) as error:
        print(json.dumps({"event": "studies_not_deleted", "error": type(error).__name__}), flush=True)


def pass_on_renewed(used: tuple[bytes, ...], nginx: Popen[bytes]) -> tuple[bytes, ...]:
    """Returns the secrets; lets nginx read them again if they are not those that it uses."""
    try:
        secrets = read_secrets()
    except OSError:  # one of them is being replaced
        return used
    if secrets != used:
        try:
            write_users(secrets[0])
        except ValueError as error:  # the former password stays
            print(json.dumps({"event": "password_not_renewed", "error": str(error)}), flush=True)
        nginx.send_signal(signal.SIGHUP)
    return secrets


def remove_details(line: bytes) -> bytes:
    """Returns a line of Orthanc's log without what may quote a header or a request, or nothing if it has no prefix.

    The lines of the main thread are about the start. In others, details follow a colon.
    """
    found = _PREFIX.match(line)
    if found is None:
        return b""
    message = line[found.end() :].rstrip()
    if found[1] != b"MAIN":
        message = message.partition(b":")[0]
    return found[0] + _UID.sub(b"UID", message) + b"\n"


def copy_log(log: IO[bytes]) -> None:
    """Copies the log of Orthanc until it ends."""
    for line in log:
        sys.stderr.buffer.write(remove_details(line))
        sys.stderr.buffer.flush()


def run(retention: timedelta, secrets: tuple[bytes, ...]) -> int:
    """Runs both programs until a signal ends them or one of them ends; returns the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    orthanc = Popen(["Orthanc", str(STATE / "orthanc.json")], stderr=PIPE)
    threading.Thread(target=copy_log, args=[orthanc.stderr]).start()
    nginx = Popen(["nginx", "-c", "/etc/vfmalign/nginx.conf", "-e", "stderr"])
    due = time.monotonic() + FIRST_DELETION_S
    try:
        while not stop.wait(1) and orthanc.poll() is None and nginx.poll() is None:
            secrets = pass_on_renewed(secrets, nginx)
            if time.monotonic() >= due:
                delete_old(retention)
                due = time.monotonic() + DELETION_INTERVAL_S
    finally:  # else an error would leave both running, without deletions and renewals
        for program in (orthanc, nginx):
            program.terminate()
        codes = orthanc.wait(), nginx.wait()
    if stop.is_set():
        return 0
    print(f"Orthanc and nginx have ended with the codes {codes}", file=sys.stderr)
    return 1


def main() -> int:
    """Writes the configuration and runs the gateway; returns the exit code, which is 2 for a wrong setting."""
    os.umask(0o077)
    STATE.mkdir(exist_ok=True)
    try:
        (STATE / "orthanc.json").write_text(json.dumps(build_configuration(os.environ)))
        retention = timedelta(days=_parse_count(os.environ, "DICOM_RETENTION_DAYS"))
        secrets = read_secrets()
        write_users(secrets[0])
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return run(retention, secrets)


if __name__ == "__main__":
    sys.exit(main())
