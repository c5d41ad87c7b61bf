"""The gateway of devices that speak DIMSE only: who may send, who may read, what it keeps, and what its log holds."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import Verification
from tests.containers.conftest import docker, image
from tests.containers.test_images import LOCKED_UP
from tests.dicom_files import make_series
from tests.dicom_headers import Examination
from tests.identities import find_marks

from vfmalign.cli.local import certificates

PASSWORD = "a:password of this test"
STUDIES = "/dicom-web/studies"
EXAMINATION = Examination()
MARKS = (
    "Zauberberg", "Walpurga", EXAMINATION.patient_id, EXAMINATION.issuer, EXAMINATION.birth_date,
    EXAMINATION.accession_number, EXAMINATION.institution, "Behrens", EXAMINATION.study_uid,
)  # fmt: skip


@dataclass
class Gateway:
    """A running gateway."""

    name: str
    address: str
    context: ssl.SSLContext
    secrets: Path

    def connect(self, title: str = "MR1", called: str = "VFMALIGN", sop_class: str = "") -> Association:
        """Asks for an association as a device, to send the series of this module or for another purpose."""
        entity = AE(title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        entity.add_requested_context(sop_class or SERIES[0].SOPClassUID, uid.ExplicitVRLittleEndian)
        association = entity.associate(self.address, 4242, ae_title=called)
        assert isinstance(association, Association)
        return association

    def send(self, *datasets: Dataset) -> list[int]:
        """Sends instances as a known device; returns their statuses."""
        association = self.connect()
        assert association.is_established
        statuses = [int(association.send_c_store(dataset).Status) for dataset in datasets]
        association.release()
        return statuses

    def get(self, path: str, password: str = PASSWORD, method: str = "GET") -> tuple[int, bytes]:
        """Returns status and body of an answer over HTTPS."""
        request = urllib.request.Request(f"https://{self.address}:8443{path}", method=method)
        if password:
            credentials = base64.b64encode(f"features:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def read_log(self, counts: Mapping[str, int] = MappingProxyType({})) -> str:
        """Returns everything that the container has written, once it has each of some words as often as stated."""
        deadline = time.monotonic() + 20
        while True:
            result = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, check=True)
            log = result.stdout + result.stderr
            missing = [words for words, count in counts.items() if log.count(words) < count]
            if not missing:
                return log
            assert time.monotonic() < deadline, f"{missing} are missing in the log:\n{log}"
            time.sleep(0.2)


SERIES = make_series(examination=EXAMINATION)


def make_credentials(folder: Path) -> Path:
    """Writes what the gateway reads, and the authority of its certificate beside it."""
    identity = certificates.issue("dicom-gateway")
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    for name, content in (("tls.crt", identity.certificate), ("tls.key", identity.key), ("password", PASSWORD)):
        (secrets / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for path in (*secrets.iterdir(), secrets):
        shutil.chown(path, 10001, 10001)
    (folder / "ca.crt").write_bytes(identity.ca)
    return secrets


def start(secrets: Path, devices: str) -> str:
    """Starts a gateway that can write to /tmp and /data only; returns the id of its container."""
    options = [one for one in LOCKED_UP if one not in {"--rm", "--network", "none"}]
    mounts = ("--tmpfs", "/tmp:mode=1777,size=256m", "--volume", f"{secrets}:/run/vfmalign:ro")
    variable = ("--env", f"DICOM_DEVICES={devices}")
    return docker("run", "--detach", "--init", *options, *mounts, *variable, image("dicom-gateway")).strip()


def wait_until_healthy(container: str) -> None:
    deadline = time.monotonic() + 60
    while (health := docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()) != "healthy":
        assert time.monotonic() < deadline, f"{health}: {docker('logs', container)}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that admits MR1 from this machine and CT.1 from another one, and has the series of this module."""
    folder = tmp_path_factory.mktemp("gateway")
    network = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Gateway"]
    secrets = make_credentials(folder)
    container = start(secrets, f"MR1@{network} CT.1@192.0.2.1")
    try:
        wait_until_healthy(container)
        settings = json.loads(docker("inspect", container))[0]["NetworkSettings"]
        context = ssl.create_default_context(cafile=folder / "ca.crt")
        context.check_hostname = False  # the container has no name outside
        running = Gateway(container, settings["IPAddress"], context, secrets)
        assert running.send(*SERIES) == [0] * len(SERIES)
        yield running
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.mark.timeout(300)
def test_what_a_known_device_sends_is_found_and_read(gateway: Gateway) -> None:
    status, body = gateway.get(f"{STUDIES}?PatientID={EXAMINATION.patient_id}")
    (study,) = json.loads(body)
    assert (status, study["0020000D"]["Value"]) == (200, [EXAMINATION.study_uid])
    status, body = gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}/instances")
    assert {one["00080018"]["Value"][0] for one in json.loads(body)} == {one.SOPInstanceUID for one in SERIES}
    status, body = gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}")
    assert status == 200
    assert all(dataset.PixelData in body for dataset in SERIES)


@pytest.mark.timeout(300)
def test_a_known_device_may_ask_whether_the_gateway_answers(gateway: Gateway) -> None:
    association = gateway.connect(sop_class=Verification)
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("title", "called"),
    [("UNKNOWN", "VFMALIGN"), ("CT.1", "VFMALIGN"), ("MR1", "ANOTHER")],
    ids=["unknown", "known from another address", "for another server"],
)
def test_another_device_is_refused(gateway: Gateway, title: str, called: str) -> None:
    before = gateway.read_log().count("Rejected association")
    for sop_class in (Verification, ""):
        # A device may learn of the closed connection before it reads why.
        assert not gateway.connect(title, called, sop_class).is_established
    gateway.read_log({"Rejected association": before + 2})


@pytest.mark.timeout(300)
def test_a_known_device_reads_nothing(gateway: Gateway) -> None:
    association = gateway.connect(sop_class=Find)
    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID = "PATIENT", "*"
    assert [(status.get("Status", "aborted"), found) for status, found in association.send_c_find(query, Find)] == [
        ("aborted", None)
    ]


@pytest.mark.timeout(300)
def test_reading_needs_the_password(gateway: Gateway) -> None:
    assert gateway.get(STUDIES)[0] == 200
    for password in ("", "another"):
        status, body = gateway.get(STUDIES, password)
        assert (status, find_marks(body, MARKS)) == (401, set())


@pytest.mark.timeout(300)
def test_a_renewed_password_needs_no_restart(gateway: Gateway) -> None:
    for renewed, replaced in (("another", PASSWORD), (PASSWORD, "another")):
        (gateway.secrets / "password").write_text(renewed)
        deadline = time.monotonic() + 60
        while gateway.get(STUDIES, renewed)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        # Its former workers end once they have answered.
        while gateway.get(STUDIES, replaced)[0] != 401:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.timeout(300)
def test_nothing_but_reading_by_dicomweb_is_possible(gateway: Gateway) -> None:
    outside = ("/system", "/instances", "/dicom-web/servers", "/dicom-web/studies/../../system", "/modalities")
    for path in (*outside, "/dicom-web/studies/%0a?Injected:%20x"):
        assert gateway.get(path)[0] == 403, path
    for method in ("POST", "PUT", "DELETE"):
        assert gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}", method=method)[0] == 403, method
    assert gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}/instances")[0] == 200
    # Orthanc's own port, which has no password, answers inside of the container alone.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://{gateway.address}:8042/system", timeout=30)


@pytest.mark.timeout(300)
def test_its_metrics_count_and_name_nobody(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"http://{gateway.address}:8002/metrics", timeout=30) as answer:
        metrics = answer.read()
    assert b"orthanc_count_studies 1 " in metrics
    assert find_marks(metrics, MARKS) == set()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{gateway.address}:8002{STUDIES}", timeout=30)


@pytest.mark.timeout(300)
def test_it_runs_as_an_unprivileged_user_on_a_read_only_root(gateway: Gateway) -> None:
    listing = (
        "import os, glob; print({os.stat(one).st_uid for one in glob.glob('/proc/[0-9]*')}, os.getuid(), "
        "os.access('/etc', os.W_OK), os.statvfs('/').f_flag & os.ST_RDONLY)"
    )
    assert docker("exec", gateway.name, "python3.11", "-c", listing).strip() == "{10001} 10001 False 1"
    command = json.loads(docker("inspect", gateway.name))[0]
    assert PASSWORD not in json.dumps(command)
    assert PASSWORD not in docker("top", gateway.name)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Unknown encoding", "ignore:Invalid value for VR")
def test_its_log_names_nobody_whatever_arrives(gateway: Gateway) -> None:
    """Names in attributes that hold numbers, character sets that nobody knows, and requests of what is not there."""
    damaged = make_series(examination=EXAMINATION)[:4]
    for dataset in damaged:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
        dataset.SeriesInstanceUID = damaged[0].SOPInstanceUID
    damaged[0].add_new(0x00101030, "LO", "Zauberberg^Walpurga")  # a weight
    damaged[0].add_new(0x00200013, "LO", "Zauberberg^Walpurga")  # a number
    damaged[1].add_new(0x00080005, "CS", "ZAUBERBERG")
    damaged[2].add_new(0x00100010, "DS", "")
    damaged[2]["PatientName"]._value = "Zauberberg^Walpurga"
    damaged[3].StudyInstanceUID = ""
    assert gateway.send(*damaged) == [0, 0, 0, 0xA700]
    gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}/metadata")
    gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}.1/metadata")
    gateway.get(f"{STUDIES}?PatientName=Zauberberg*&PatientBirthDate={EXAMINATION.birth_date}")
    gateway.get(f"{STUDIES}?PatientName=%FFZauberberg&{EXAMINATION.patient_id}=1&limit=Zauberberg")
    # An error of the level `crit`, which quotes the request.
    docker("exec", gateway.name, "chmod", "000", "/tmp/gateway/users")
    try:
        assert gateway.get(f"{STUDIES}?PatientID={EXAMINATION.patient_id}")[0] == 500
    finally:
        docker("exec", gateway.name, "chmod", "600", "/tmp/gateway/users")
    words = ("Orthanc has started", '"status": 404', "Bad file format", "Accessing an inexistent item", "VR DS")
    log = gateway.read_log(dict.fromkeys(words, 1))
    print(log)
    assert find_marks(log.encode(), MARKS) == set()


@pytest.mark.timeout(300)
def test_old_studies_are_deleted(gateway: Gateway) -> None:
    deleting = (
        "import runpy, sys; from datetime import *; start = runpy.run_path('/usr/local/bin/start'); "
        "now = datetime.now(UTC); print(*(start['delete_studies'](now + timedelta(days=d)) for d in (-1, 1)))"
    )
    assert docker("exec", gateway.name, "python3.11", "-c", deleting).strip() == "0 1"
    assert gateway.get(f"{STUDIES}/{EXAMINATION.study_uid}/instances")[1].split() == [b"[]"]
    assert gateway.send(*SERIES) == [0] * len(SERIES)


@pytest.mark.timeout(300)
def test_it_ends_with_either_of_its_programs_and_in_order_when_it_is_stopped(tmp_path: Path) -> None:
    secrets = make_credentials(tmp_path)
    killing = (
        "import glob, os, sys\n"
        "names = {int(one[6:]): open(f'{one}/comm').read().strip() for one in glob.glob('/proc/[0-9]*')}\n"
        "os.kill(min(pid for pid, name in names.items() if name == sys.argv[1]), 9)  # not a worker\n"
    )
    for killed, code in (("Orthanc", "1"), ("nginx", "1"), ("", "0")):
        container = start(secrets, "MR1")
        try:
            wait_until_healthy(container)
            if killed:
                docker("exec", container, "python3.11", "-c", killing, killed)
            else:
                docker("stop", "--time", "60", container)
            assert docker("wait", container, timeout_s=60).strip() == code, killed
        finally:
            docker("rm", "--force", "--volumes", container)


@pytest.mark.timeout(300)
def test_it_ends_where_a_setting_or_secret_is_missing(tmp_path: Path) -> None:
    secrets = make_credentials(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder, devices, words in (
        (secrets, "", "DICOM_DEVICES is not set"),
        (tmp_path / "empty", "MR1", "No such file or directory: '/run/vfmalign/password'"),
    ):
        container = start(folder, devices)
        assert docker("wait", container, timeout_s=60).strip() == "2"
        result = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
        docker("rm", "--volumes", container)
        assert words in result.stderr
