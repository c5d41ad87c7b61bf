"""Datasets, feature sets, models and observations of a patient and of others, on a real S3 server."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.integration.features.outboxes import ORIGIN

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.datasets import Case, Curation, DatasetManifest
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing, PretrainingDataset
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import save_dataset, to_datalist
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.keys import (
    erasures_prefix,
    incoming_prefix,
    model_card_key,
    outbox_key,
    volume_key,
    weights_key,
)
from vfmalign.features.erasure import make_erasures
from vfmalign.features.extraction.study_store import store_features
from vfmalign.features.outbox.entries import OutboxEntry

PATIENT, CASES = "patient-1", ("case-2", "case-3")
INPUT = Preprocessing(modalities=("t2w",), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(8, 8, 8))


@pytest.fixture
def store(store):
    """An empty tenant of the module's bucket."""
    return store.of_tenant(f"t{random.getrandbits(64):x}")


def make_dataset(store, name, patients, **fields):
    """Stores a dataset with two cases for each patient."""
    cases = []
    for patient in patients:
        for number in (2 * patient, 2 * patient + 1):
            case = f"case-{number}"
            ref = store.put(volume_key(name, case, "t2w"), f"{name} {case}".encode())
            cases.append(Case(id=case, group=f"patient-{patient}", volumes={"t2w": ref}))
    manifest = DatasetManifest(id=name, test=tuple(cases[:-2]), train=tuple(cases[-2:]), **fields)
    save_dataset(store, manifest)
    return manifest


def make_set(store, dataset, *, commit=True):
    request = FeatureRequest(
        model_id="net", model_sha256="1" * 64, dataset_id=dataset.id, dataset_digest=dataset.digest(), split="test",
        layers=("a",), preprocessing=INPUT,
    )  # fmt: skip
    writer = FeatureSetWriter(store, request, [c.id for c in dataset.test], [c.group for c in dataset.test])
    writer.write_part(0, {"a": np.ones((len(dataset.test), 2), np.float32)})
    if commit:
        writer.commit({})
    return request.feature_set_id()


def make_model(store, name, dataset=None):
    weights = store.put(weights_key(name, "2" * 64), name.encode())
    groups = () if dataset is None else tuple({case.group for case in dataset.test})
    digest = "3" * 64 if dataset is None else dataset.digest()
    source = PretrainingDataset(dataset_id="affected", dataset_digest=digest, volume_sha256=(), groups=groups)
    card = ModelCard(
        id=name, architecture="net", objective="supervised", checkpoint=weights, preprocessing=INPUT,
        layers=(Layer(name="a", channels=2),), primary_layer="a", pretraining=(source,),
    )  # fmt: skip
    store.write(model_card_key(name), card)


def make_observation(store, number, group, monitor="drift"):
    study = ObservedStudy(observation_id=f"o-{number}", group=group)
    entry = OutboxEntry(monitor, ORIGIN, Observation(study, {"a": np.ones(2, np.float32)}))
    store.put(outbox_key(monitor, number, "0" * 8, f"{number:064x}"), entry.to_bytes())


@pytest.fixture
def hospital(store):
    """Everything that the service stores, of the patient and of others."""
    curation = Curation(chosen={"case-2": {"t2w": "3"}, "case-0": {"t2w": "1"}})
    affected = make_dataset(store, "affected", (0, 1, 2), curation=curation)
    other = make_dataset(store, "other", (5, 6))
    sets = SimpleNamespace(affected=make_set(store, affected), other=make_set(store, other))
    store_features(store, "study-1", PATIENT, {"a": torch.ones(2)})
    store_features(store, "study-2", "patient-10", {"a": torch.ones(2)})
    make_model(store, "trained", affected)
    make_model(store, "public")
    volume = affected.test[2].volumes["t2w"]
    store.put(f"{incoming_prefix('me', 'again')}{volume.sha256}", b"the same volume again")
    store.put(f"{incoming_prefix('me', 'draft')}{'5' * 64}", canonical_json(to_datalist(affected)))
    store.put(f"{incoming_prefix('me', 'others')}{'6' * 64}", canonical_json(to_datalist(other)))
    store.put(f"{incoming_prefix('me', 'others')}{'7' * 64}", b"{ no datalist")
    for number, group in enumerate((PATIENT, "patient-10", PATIENT)):
        make_observation(store, number + 1, group)
    return SimpleNamespace(affected=affected, other=other, sets=sets)


def read_all(store):
    return {key: store.get(key) for key in store.list("") if not key.startswith(erasures_prefix("features"))}


def ask(**fields):
    return ErasePatientRequest(**{"erasure_id": "e1", "group": PATIENT, "models": "keep"} | fields)


def erase(store, **fields):
    return make_erasures(store).erase(ask(**fields), "https://idp#ada")


def describe(receipt):
    return {(one.kind, one.id): (one.outcome, one.count) for one in receipt.objects}
