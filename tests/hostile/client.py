"""Sends rows to the services' process and tells what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tests.hostile.dicom_rows import STUDY_BYTES, store_rules
from tests.hostile.row import Inputs, Row
from tests.hostile.token_rows import ISSUER, OWNER
from tests.token_issuer import bearer

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.rpc.status_mapping import DETAILS_KEY
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.keys import volume_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack, generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2, finetuning_pb2, mmd_pb2, monitoring_pb2

SPEC = PhantomSpec(
    t2w=SliceStack((64, 64, 16), (1.75, 1.75, 3.75)),
    dwi=SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
    adc=SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
)
MODALITIES = ("t2w", "dwi", "adc")
INPUT = Preprocessing(modalities=MODALITIES, spacing_mm=(3.75, 1.75, 1.75), shape_dhw=(16, 64, 64))
STREAMING = (
    *("ExtractDataset", "PublishDataset", "PublishModel", "ComputeBatch"),
    *("WatchJob", "WatchCheck", "WatchExperiment", "GetCheckReport", "GetExperimentReport"),
    *("WatchMonitor", "GetMonitorReport"),
)
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What became of a row.

    Attributes:
        code: name of the status.
        text: message of the status with everything that its details name.
        growth_mib: by how much the peak of the process's resident memory exceeds its memory before the call.
        seconds: until the answer.
    """

    code: str
    text: str
    growth_mib: float
    seconds: float


def store_inputs(store: ObjectStore) -> Inputs:
    """Stores a model, a dataset of one case and a feature set."""
    publish(
        store,
        "micro",
        random_state(ARCHITECTURES["profound_conv_micro"], 0),
        architecture="profound_conv_micro",
        objective="contrastive",
        preprocessing=INPUT,
    )
    splits = {}
    study: dict[str, bytes] = {}
    for index, split in enumerate(("train", "val", "test")):
        study = {kind: encode(volume) for kind, volume in generate_case(11, index, SPEC).volumes.items()}
        refs = {kind: store.put(volume_key("phantoms", split, kind), data) for kind, data in study.items()}
        splits[split] = (Case(id=split, group=f"patient-{split}", volumes=refs),)
    save_dataset(store, DatasetManifest(id="phantoms", **splits))
    store_rules(store)
    volumes = {kind: study[kind] for kind in MODALITIES}
    return Inputs(store, volumes, store_features(store, 8), store_features(store, 60), INPUT.content_digest())


def store_features(store: ObjectStore, rows: int) -> str:
    """Stores a feature set of patients with one row each; returns its id."""
    request = FeatureRequest(
        model_id="micro",
        model_sha256="0" * 64,
        init_seed=uuid.uuid4().int % 2**62,
        dataset_id="phantoms",
        dataset_digest="1" * 64,
        split="test",
        layers=("stages.3",),
        preprocessing=INPUT,
    )
    cases = [f"case-{row}" for row in range(rows)]
    writer = FeatureSetWriter(store, request, cases, cases)
    writer.write_part(0, {"stages.3": np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)})
    writer.commit({"torch": "2"})
    return request.feature_set_id()


class Services:
    """The services' process, and a channel to each service."""

    def __init__(self, pid: int, ports: Mapping[str, int]) -> None:
        self._process = psutil.Process(pid)
        # Requests of every size leave: the server's limits are what is tested.
        options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        self._channels = {name: grpc.insecure_channel(f"127.0.0.1:{port}", options) for name, port in ports.items()}

    def send(self, row: Row, inputs: Inputs) -> Answer:
        """Sends a row and returns the answer, with the memory that it cost."""
        request = row.build(inputs)
        before = self._reset_peak()
        started = time.monotonic()
        authorization = (f"Bearer {OWNER}",) if row.authorization is None else row.authorization
        headers = tuple(("authorization", value) for value in authorization)
        code, text = self._call(row.rpc, request, row.metadata + headers)
        return Answer(code, text, max(self._peak_mib() - before, 0.0), time.monotonic() - started)

    def create_monitor(self, inputs: Inputs) -> None:
        """Creates the monitor that rows observe."""
        request = monitoring_pb2.CreateMonitorRequest(
            monitor_id=inputs.monitor, spec={"reference": {"feature_set_id": inputs.reference}}
        )
        code, text = self._call("MonitoringService/CreateMonitor", request, tuple(bearer(OWNER)))
        assert code == "OK", text

    def answers(self, rpc: str) -> bool:
        """Returns whether the service of an RPC still does its work."""
        service = rpc.split("/", maxsplit=1)[0]
        if service in {"FeatureService", "DatasetService", "ModelService"}:
            check: tuple[str, Message] = ("FeatureService/GetModel", features_pb2.GetModelRequest(model_id="micro"))
        elif service == "MmdService":
            check = ("MmdService/ComputeBatch", mmd_pb2.ComputeBatchRequest(requests=[mmd_pb2.ComputeRequest()]))
        elif service == "MonitoringService":
            check = ("MonitoringService/ListMonitors", monitoring_pb2.ListMonitorsRequest(page_size=1))
        else:
            check = ("FineTuningService/ListJobs", finetuning_pb2.ListJobsRequest(page_size=1))
        return self._process.is_running() and self._call(*check, tuple(bearer(OWNER)))[0] == "OK"

    def _call(
        self, rpc: str, request: Message | bytes, metadata: tuple[tuple[str, str | bytes], ...]
    ) -> tuple[str, str]:
        service, method = rpc.split("/")
        channel, path = self._channels[service], f"/vfmalign.v1.{rpc}"
        data = request if isinstance(request, bytes) else request.SerializeToString()
        options = {"timeout": TIMEOUT_S, "metadata": metadata}
        try:
            if method in STREAMING:
                responses = channel.unary_stream(path)(data, **options)
                next(responses)
                if method.startswith("Publish"):
                    list(responses)  # progress comes before an error
                responses.cancel()
            else:
                channel.unary_unary(path)(data, **options)
        except grpc.RpcError as error:
            return error.code().name, _get_text(error)
        return "OK", ""

    def _reset_peak(self) -> float:
        """Makes the kernel measure the peak of the resident memory anew; returns the present memory in MiB."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return float(self._process.memory_info().rss / 2**20)

    def _peak_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) / 2**10


def _get_text(error: grpc.RpcError) -> str:
    parts = [error.details() or ""]
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                parts += [info.reason, *info.metadata.values()]
            elif detail.Unpack(request):
                parts += [violation.field for violation in request.field_violations]
    return " | ".join(parts)


@contextmanager
def running_services(environment: Mapping[str, str], folder: Path) -> Iterator[Services]:
    """Runs the services during a block.

    Args:
        environment: names the object store.
        folder: for the database, the log and the ports.
    """
    ports_file = folder / "ports.json"
    settings = {
        "TEST_PORTS_FILE": str(ports_file),
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_STATE_DIR": str(folder),
        "VFMALIGN_FEATURES_ADDRESS": "127.0.0.1:9",
        "VFMALIGN_MMD_ADDRESS": "127.0.0.1:9",
        "VFMALIGN_FEATURES__DEVICE": "cpu",
        "VFMALIGN_FEATURES__DICOM_FOLDER": str(folder / "dicom"),
        "VFMALIGN_FEATURES__DICOM_STUDY_BYTES": str(STUDY_BYTES),
        "VFMALIGN_MMD__DEVICE": "cpu",
        "VFMALIGN_MMD__MEMORY_MIB": "256",
        "VFMALIGN_AUTH__MODE": "local",
        "VFMALIGN_AUTH__JWKS_FILE": str(ISSUER.write_jwks(folder / "jwks.json")),
        "OMP_NUM_THREADS": "1",
    }
    log = folder / "services.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.hostile.services"]
        process = subprocess.Popen(command, env={**os.environ, **environment, **settings}, stderr=out)
    try:
        while not ports_file.exists():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield Services(process.pid, json.loads(ports_file.read_text()))
    finally:
        process.kill()
        process.wait()
