"""`python -m vfmalign.features` as a process on a real S3 server, with phantoms and a small model to feed it."""

import json
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from pydicom import dcmread
from tests.dataset_imports import import_dataset
from tests.dicom_files import write_prostate
from tests.integration.features import callers
from tests.integration.features.dicom_service import NAME, RULES, make_declaration
from tests.integration.features.imported_datasets import checked, emptied  # noqa: F401 - fixtures
from tests.orthanc import Orthanc, run_orthanc

from vfmalign.client import Client
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import volume_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.extraction.extractor import extract
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.datasets.layouts.sources import DicomOptions
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack, generate_case
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import decode, encode
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import common_pb2, features_pb2_grpc
from vfmalign.v1 import features_pb2 as pb

# Phantoms on coarse grids: the whole anatomy, quickly made.
SPEC = PhantomSpec(
    t2w=SliceStack((64, 64, 16), (1.75, 1.75, 3.75)),
    dwi=SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
    adc=SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
)
MODALITIES = ("t2w", "dwi", "adc")
INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.75, 1.75, 1.75), shape_dhw=(16, 64, 64))


class Server:
    """`python -m vfmalign.features` on free ports.

    Args:
        start: starts the process, like `subprocess.Popen`.
        environment: variables of the process.
        folder: folder for its log.
        settings: further variables.
    """

    def __init__(self, start, environment, folder, **settings):
        self.ports_file = folder / f"ports-{uuid.uuid4().hex}.json"
        self.log = folder / "features.log"
        environment = {
            **environment,
            "VFMALIGN_SERVER__GRPC_PORT": "0",
            "VFMALIGN_SERVER__METRICS_PORT": "0",
            "VFMALIGN_SERVER__HEALTH_PORT": "0",
            "VFMALIGN_SERVER__PORTS_FILE": str(self.ports_file),
            "VFMALIGN_SERVER__DRAIN_S": "5",
            "VFMALIGN_FEATURES__DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        with self.log.open("ab") as out:
            self.process = start([sys.executable, "-m", "vfmalign.features"], env=environment, stderr=out)
        for _ in range(1200):
            if self.ports_file.exists() or self.process.poll() is not None:
                break
            time.sleep(0.05)
        assert self.process.poll() is None, self.log.read_text()
        self.ports = json.loads(self.ports_file.read_text())
        self.address = f"127.0.0.1:{self.ports['grpc']}"

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.fixture(scope="module")
def phantoms():
    return [generate_case(11, index, SPEC).volumes for index in range(3)]


@pytest.fixture(scope="module")
def card(store):
    architecture = ARCHITECTURES["profound_conv_micro"]
    generator = torch.Generator().manual_seed(0)
    state = random_state(architecture, 0)
    state = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in state.items()}
    return publish(store, "micro", state, architecture=architecture.name, objective="contrastive", preprocessing=INPUT)


def _upload(store, dataset: str, volumes_by_case) -> DatasetManifest:
    cases = []
    for number, volumes in enumerate(volumes_by_case):
        case = f"case-{number:03d}"
        refs = {kind: store.put(volume_key(dataset, case, kind), encode(v)) for kind, v in volumes.items()}
        cases.append(Case(id=case, group=f"patient-{number:03d}", volumes=refs))
    result = DatasetManifest(id=dataset, test=tuple(cases))
    save_dataset(store, result)
    return result


@pytest.fixture(scope="module")
def dataset(store, phantoms):
    return _upload(store, "phantoms", phantoms)


@pytest.fixture(scope="module")
def server(store, card, store_environment, python, tmp_path_factory):
    running = Server(python, store_environment, tmp_path_factory.mktemp("features"))
    yield running
    assert running.process.poll() is None, "the server died during the tests\n" + running.log.read_text()
    assert running.end() == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@pytest.fixture
async def service(server):
    # A plain channel: statuses as any client of the API sees them.
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield features_pb2_grpc.FeatureServiceStub(channel)


def _study_of(volumes, **replaced) -> pb.Study:
    """A study sent inline; `replaced` gives other bytes for a modality, or None to leave it out."""
    data = {kind: encode(volumes[kind]) for kind in MODALITIES} | replaced
    return pb.Study(
        volumes=[pb.StudyVolume(modality=kind, nifti=content) for kind, content in data.items() if content is not None]
    )


@pytest.fixture(scope="module")
def expected_features(store, card):
    """What the plain functions give in this process."""

    def features(volumes, layers, pooling="mean", transform="identity"):
        encoder, _ = load_encoder(store, "micro")
        # As stored: a NIfTI file's affine is float32, and voxels on the rim of a grid feel that.
        images = {kind: decode(encode(volumes[kind]), kind, kind) for kind in MODALITIES}
        study = prepare_study(images, card.preprocessing, transform)
        rows = extract(encoder, study.input_CDHW[None], layers, pooling, torch.tensor([study.slices]))
        return {layer: row_1C[0].numpy() for layer, row_1C in rows.items()}

    return features


@pytest.fixture(scope="session")
def close():
    """Another process, perhaps other numbers of threads: equal to float32 rounding."""
    return _close


def _close(actual, expected) -> bool:
    return actual.shape == expected.shape and np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="session")
def study_of():
    return _study_of


@pytest.fixture(scope="module")
def upload(store):
    """Uploads cases as a dataset; several names may share volumes."""
    return lambda name, volumes_by_case: _upload(store, name, volumes_by_case)


@pytest.fixture(scope="session")
def collect():
    """All messages of one ExtractDataset call."""

    async def messages(service, **fields):
        request = pb.ExtractDatasetRequest(**{"model_id": "micro", "split": common_pb2.SPLIT_TEST} | fields)
        return [message async for message in service.ExtractDataset(request)]

    return messages


@pytest.fixture
def start_server(store, card, store_environment, python, tmp_path):
    """Starts servers of the test's own, and ends what is left of them."""
    started = []

    def start(**settings):
        started.append(Server(python, store_environment, tmp_path, **settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="module")
def caller_settings(tmp_path_factory):
    """Variables of a service that admits the callers of `callers` alone."""
    return callers.get_settings(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def import_service(store, card, store_environment, caller_settings, python, tmp_path_factory):
    """A service that admits the callers of `callers` alone."""
    running = Server(python, store_environment, tmp_path_factory.mktemp("imports"), **caller_settings)
    yield running
    assert running.end() == 0, running.log.read_text()
    log = running.log.read_text()
    assert "Traceback" not in log, log
    assert "X-Amz-Signature" not in log


@pytest.fixture
def as_caller(import_service):
    """Opens clients with a token and no keys of the object storage."""
    clients = []

    def open_client(token, address=""):
        clients.append(Client(features_address=address or import_service.address, token=token))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one examination."""
    folder = tmp_path_factory.mktemp("study")
    write_prostate(
        folder / NAME.partition("^")[0], generate_case(11, 0, SPEC), patient_name=NAME, patient_id="PID-4711"
    )
    return folder


@pytest.fixture(scope="module")
def marks(study: Path) -> set[str]:
    """Every value of the files that identifies."""
    found = {"Zauberberg", "Walpurga"}
    for path in study.rglob("*.dcm"):
        header = dcmread(path, stop_before_pixels=True)
        found |= {
            str(header[keyword].value)
            for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber")
            if keyword in header and header[keyword].value
        }
    return found


@pytest.fixture(scope="module")
def imported(study: Path, store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """The study as an import stores it."""
    declared = parse_declaration(make_declaration())
    options = ImportOptions(layout="dicom", declaration=declared.declaration, dicom=DicomOptions(declared.selections))
    mapping = tmp_path_factory.mktemp("mapping") / "mapping.csv"
    return import_dataset(study, store, RULES, options, mapping_path=mapping, salt=b"0" * 32)


@pytest.fixture(scope="module")
def orthanc(study: Path) -> Iterator[Orthanc]:
    with run_orthanc() as running:
        running.store(sorted(study.rglob("*.dcm")))
        yield running
