"""A patient is erased from a stack at work: found everywhere before, nowhere after, nor after an old backup's restore.

The search reads every object of the bucket (decompressed) and a dump of both databases. It looks for the patient's
group, cases, digests of volumes, rows of features and scores.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.conftest import MODEL, PHANTOMS, TIMEOUT_S, World, recipe
from tests.e2e.test_backup import running
from tests.identities import read_audit_events
from tests.integration.cli.commands import call, wait_until
from tests.monitored_model import store_reference

from vfmalign.cli.local import backup
from vfmalign.cli.local.restore import restore
from vfmalign.cli.local.stack import SERVICES
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.client import Client, MonitorReference, MonitorSpec, ObservedStudy
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.features import ExtractDatasetRequest, StudyObservation
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import incoming_prefix
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import alignment_pb2

DATASET, LAYER = "ward", "stages.3"
SHORT = {"epochs": 1, "steps_per_epoch": 2}
_HEX = re.compile(rb"[0-9A-F]{64,}")


class Patient:
    """What is known of one patient of the dataset.

    Attributes:
        group: the patient's group.
        needles: by meaning, the bytes that the search looks for.
    """

    def __init__(self, store: ObjectStore, dataset: DatasetManifest) -> None:
        case = dataset.test[0]
        self.group = case.group
        self.volumes = {kind: store.get(ref.key) for kind, ref in dataset.images(case).items()}
        self.needles = {
            "group": case.group.encode(),
            "case": case.id.encode(),
            **{f"digest of {kind}": ref.sha256.encode() for kind, ref in dataset.images(case).items()},
            **{f"bytes of {kind}": gzip.decompress(data)[1000:1400] for kind, data in self.volumes.items()},
        }

    def add_row(self, row_C: np.ndarray) -> None:
        """Adds a row of features."""
        self.needles[f"features {len(self.needles)}"] = row_C.astype("<f4").tobytes()


def read_places(store: ObjectStore, home: StateDirectory) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of every object of the bucket and of every statement of a dump of the databases."""
    for key in store.list(""):
        try:
            data = store.get(key)
        except NotFound:  # a mark that is not needed any more
            continue
        yield key, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    for name in ("finetuning", "monitoring"):
        connection = sqlite3.connect(f"file:{home.service_state / name}.db?mode=ro", uri=True)
        for statement in connection.iterdump():
            data = statement.encode()
            yield f"{name}: {statement[:60]}", data + b"".join(map(bytes.fromhex, map(bytes.decode, _find_blobs(data))))
        connection.close()


def _find_blobs(data: bytes) -> list[bytes]:
    return [blob[: len(blob) // 2 * 2] for blob in _HEX.findall(data)]


def search(patient: Patient, store: ObjectStore, home: StateDirectory) -> dict[str, set[str]]:
    """Returns the places of each thing that is known of a patient."""
    found: dict[str, set[str]] = {name: set() for name in patient.needles}
    for place, data in read_places(store, home):
        for name, needle in patient.needles.items():
            if needle in data or needle in place.encode():
                found[name].add(place)
    return found


def connect(world: World) -> Client:
    state = world.stack.get_state()
    addresses = {f"{name}_address": state.services[name].ports.address for name in SERVICES}
    return Client(**addresses, token=state.token_file.read_text().strip())


def run_experiment(client: Client) -> None:
    fast = Recipe(preset="demo", batch_size=2, learning_rate=8e-3, **SHORT)
    spec = ExperimentSpec(
        model_ids=(MODEL, "second"), dataset_id=DATASET, tasks=(Task(name="super_resolution"),), seeds=(0,),
        recipe=fast, permutations=99, bootstrap_resamples=100,
    )  # fmt: skip
    client.experiments.create("with-patient", spec)
    assert client.experiments.wait("with-patient", timeout_s=TIMEOUT_S).state == "succeeded"


def digest_others(store: ObjectStore) -> Mapping[str, str]:
    """Returns the digests of the objects of other datasets and models."""
    prefixes = ("volumes/phantoms/", "datasets/phantoms/", f"models/{MODEL}/")
    return {key: hashlib.sha256(store.get(key)).hexdigest() for prefix in prefixes for key in store.list(prefix)}


@pytest.mark.timeout(3 * TIMEOUT_S)
def test_an_erased_patient_is_nowhere_and_stays_so_after_a_restore(
    world: World, python_server: Path, tmp_path: Path
) -> None:
    store, home = world.store, ["--home", str(world.home.path), "--json"]
    dataset = synthesise_dataset(store, DATASET, 3, {"train": 8, "val": 4, "test": 12}, spec=PHANTOMS)
    patient = Patient(store, dataset)
    short = recipe(**SHORT)
    world.run("with-patient", dataset_id=DATASET, recipe=short, permutations=99, bootstrap_resamples=100)
    card = load_card(store, MODEL)
    second = random_state(ARCHITECTURES[card.architecture], 5)
    publish(
        store, "second", second, architecture=card.architecture, objective="random", preprocessing=card.preprocessing
    )
    with connect(world) as client:
        run_experiment(client)
        request = ExtractDatasetRequest(model_id=MODEL, dataset_id=DATASET, split="test", layers=(LAYER,))
        reference = client.features.extract_dataset(request).feature_set.feature_set_id
        patient.add_row(read_feature_set(store, reference).layers[LAYER][0])
        monitored = store_reference(store, card, LAYER, read_feature_set(store, reference).layers[LAYER][1])
        client.monitors.create("with-patient", MonitorSpec(reference=MonitorReference(feature_set_id=monitored)))
        study = client.features.extract(
            MODEL, patient.volumes, layers=[LAYER], store_as="kept", store_group=patient.group
        )
        assert study.stored
        others = [case for split in ("train", "val") for case in dataset.split(split)][:3]
        for number, case in enumerate((dataset.test[0], *others)):
            observed = ObservedStudy(observation_id=f"order-{number}", group=case.group)
            observation = StudyObservation(monitor_id="with-patient", study=observed)
            volumes = {kind: store.get(ref.key) for kind, ref in dataset.images(case).items()}
            client.features.extract(MODEL, volumes, layers=[LAYER], observation=observation)
        wait_until(lambda: client.monitors.get("with-patient").outcomes["entered"] == 4, "the observations")
        evidence = [one.log_evidence for one in client.monitors.get("with-patient").components]
        patient.needles["observation"] = b"order-0"
        upload = next(iter(patient.volumes.values()))
        store.put(f"{incoming_prefix('somebody', 'again')}{hashlib.sha256(upload).hexdigest()}", upload)

        before, untouched = search(patient, store, world.home), digest_others(store)
        assert all(before.values()), {name for name, places in before.items() if not places}
        file = tmp_path / "stack.tar"
        assert backup.back_up(world.home, file, backup.list_secrets(world.home), print, lambda *_: None)

        erase = ["erase", patient.group, "--models", "keep"]
        call(*erase, "--dry-run", *home)
        assert search(patient, store, world.home) == before
        receipts = call(*erase, "--yes", *home).document["receipts"]
        assert [receipt["service"] for receipt in receipts] == ["features", "finetuning", "monitoring"]
        assert all("complete_time" in receipt for receipt in receipts)
        after = search(patient, store, world.home)
        assert not any(after.values()), {name: places for name, places in after.items() if places}
        assert digest_others(store) == untouched
        smaller = load_dataset(store, DATASET)
        assert sum(len(smaller.split(split)) for split in SPLITS) == 23
        assert [one.log_evidence for one in client.monitors.get("with-patient").components] == evidence
        with pytest.raises(PreconditionFailed) as caught:
            client.checks.get_report("with-patient")
        assert caught.value.reason == "ERASED"
    check = world.get("with-patient")
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED
    assert "the erasure of a patient removed its results. Verdict" in check.progress.detail
    shown = call("erasures", "show", receipts[0]["erasure_id"], *home).document["receipts"]
    assert [one["objects"] for one in shown] == [one["objects"] for one in receipts]

    restored_home = StateDirectory(tmp_path / "restored")
    restore(restored_home, file, print, lambda *_: None)
    log = world.home.private / "erasures.jsonl"
    assert patient.group not in log.read_text()
    with running(restored_home, python_server) as restored:
        again = search(patient, restored.store, restored_home)
        assert all(again.values()), "the backup holds the patient"
        call("erasures", "replay", str(log), "--home", str(restored_home.path), "--json")
        left = search(patient, restored.store, restored_home)
        assert not any(left.values()), {name: places for name, places in left.items() if places}
    ids = {name for split in SPLITS for case in dataset.split(split) for name in (case.id, case.group)}
    logs = [world.home.logs / f"{service}.log" for service in SERVICES]
    logs += [path for path in (world.home.service_state / "logs").rglob("*") if path.is_file()]
    assert len(logs) > len(SERVICES), "with the logs of jobs"
    lines = {line for path in logs for line in path.read_text(errors="replace").splitlines()}
    assert not [line for line in lines if any(name in line for name in ids)]
    events = read_audit_events(world.home.logs)
    assert {"Extract", "Observe", "CreateMonitor", "ErasePatient"} <= set(events)
    forbidden = {*ids, "order-", *(needle.decode() for needle in patient.needles.values() if needle.isascii())}
    assert not [one for one in forbidden if one in "".join(events.values())]
    services = [json.loads(line)["service"] for line in log.read_text().splitlines()]
    assert services == ["features", "finetuning", "monitoring"]
