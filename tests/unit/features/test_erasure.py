"""Erasure of a patient from what the feature service stores: found before, gone after, and nothing else is touched."""

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from tests.integration.features.outboxes import ORIGIN

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.erasure import ErasedDataset, ErasePatientRequest, PatientDigest
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.datasets import SPLITS, Case, Curation, DatasetManifest
from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed, StoreRefused
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing, PretrainingDataset
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import load_dataset, save_dataset, to_datalist
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.keys import (
    dataset_key,
    erasures_prefix,
    incoming_prefix,
    model_card_key,
    outbox_key,
    uses_prefix,
    volume_key,
    volumes_prefix,
    weights_key,
)
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.deletion import Deletions
from vfmalign.features.erasure import check_group_not_erased, check_not_erased, make_erasures
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


def test_the_patient_goes_and_everybody_else_stays(store, hospital):
    before = read_all(store)
    assert any(PATIENT.encode() in data for data in before.values())
    planned = erase(store, dry_run=True)
    assert read_all(store) == before
    assert not list(store.list(erasures_prefix("features")))
    receipt = erase(store)
    after = read_all(store)
    kept = {key: data for key, data in after.items() if key not in {dataset_key("affected"), model_card_key("trained")}}
    assert not [key for key, data in kept.items() if PATIENT.encode() in data.replace(b"patient-10", b"")]
    assert not [key for key in after if any(case in key for case in CASES)]
    assert kept.items() <= before.items()
    affected = load_dataset(store, "affected")
    assert {case.group for split in SPLITS for case in affected.split(split)} == {"patient-0", "patient-2"}
    assert affected.curation.chosen == {"case-0": {"t2w": "1"}}
    assert (
        describe(receipt)
        == describe(planned)
        == {
            ("dataset", "affected"): ("changed", 2),
            ("feature set", hospital.sets.affected): ("removed", 2),
            ("stored study", ""): ("removed", 2),
            ("model", "trained"): ("kept", 1),
            ("import", "again"): ("removed", 1),
            ("import", "draft"): ("removed", 1),
            ("waiting observation", "drift"): ("removed", 2),
        }
    )
    removed = before.keys() - after.keys()
    assert sum(one.count for one in receipt.objects if one.outcome != "kept") == len(removed)
    assert [(one.dataset_id, one.dataset_digest) for one in receipt.datasets] == [
        ("affected", hospital.affected.digest())
    ]
    assert (receipt.requested_by, receipt.service) == ("https://idp#ada", "features")
    assert receipt.complete_time >= receipt.create_time
    stored = b"".join(store.get(key) for key in store.list(erasures_prefix("features")))
    assert not [text for text in (PATIENT, *CASES, "o-1") if text.encode() in stored]
    with pytest.raises(PreconditionFailed, match="digest"):
        load_dataset(store, "affected", hospital.affected.digest())
    assert erase(store) == receipt, "a repeated call finds nothing new"
    assert make_erasures(store).get("e1").objects == receipt.objects


def test_models_are_deleted_on_request_and_in_use_later(store, hospital):
    mark = f"{uses_prefix('models', 'trained')}job/j1"
    store.put(mark, b"")
    assert erase(store, models="delete").complete_time is None
    assert store.exists(model_card_key("trained"))
    store.delete(mark)
    make_erasures(store).resume()
    receipt = make_erasures(store).get("e1")
    assert receipt.complete_time
    assert describe(receipt)["model", "trained"] == ("removed", 2)
    assert not list(store.list("models/trained/"))
    assert store.exists(model_card_key("public"))
    assert not [key for key, data in read_all(store).items() if b'"patient-1"' in data]


def test_somebody_else_is_not_touched(store, hospital):
    """The negative control: an unknown patient, and one whose id begins like the patient's."""
    before = read_all(store)
    receipt = erase(store, group="patient-1000")
    assert describe(receipt) == {("upload of imports", ""): ("kept", 1)}, "a volume that names nobody"
    assert (receipt.datasets, receipt.complete_time is None) == ((), False)
    assert read_all(store) == before


def test_another_tenant_is_not_touched(store, hospital):
    other = store.of_tenant("another")
    make_dataset(other, "affected", (0, 1))
    before = read_all(other)
    erase(store)
    assert read_all(other) == before


def test_a_dataset_of_the_patient_alone_is_deleted(store):
    make_dataset(store, "alone", (1,))
    receipt = erase(store)
    assert describe(receipt) == {("dataset", "alone"): ("removed", 3)}
    assert not read_all(store)


def test_a_small_test_split_is_named(store):
    make_dataset(store, "affected", range(18))
    (change,) = erase(store).objects
    assert change.note == "test has 16 patients, too few for a verdict"
    (change,) = erase(store, group="patient-17", erasure_id="e2").objects
    assert change.note == "train is empty now"


def test_neither_the_patient_nor_the_files_are_imported_again(store, hospital):
    check = partial(check_not_erased, make_erasures(store))
    check(hospital.affected)
    erase(store)
    with pytest.raises(PreconditionFailed, match="erasure e1") as caught:
        check(hospital.affected)
    assert (caught.value.reason, PATIENT in str(caught.value)) == ("ERASED_PATIENT", False)
    renamed = [case.model_copy(update={"group": "somebody"}) for case in hospital.affected.test]
    with pytest.raises(PreconditionFailed, match="erasure e1") as renamed_error:
        check(hospital.affected.model_copy(update={"test": tuple(renamed)}))
    assert caught.value.subject == renamed_error.value.subject == f"dataset affected: {', '.join(CASES)}"
    check(hospital.other)
    check(load_dataset(store, "affected"))
    with pytest.raises(PreconditionFailed, match="erasure e1"):
        check_group_not_erased(make_erasures(store), PATIENT, "study-1")
    check_group_not_erased(make_erasures(store), "patient-10", "study-1")


def test_a_restored_copy_is_erased_by_the_digest_alone(store, hospital):
    before = read_all(store)
    patient = erase(store).patient
    for key in store.list(""):
        store.delete(key)  # the older bucket has no receipt
    for key, data in before.items():
        store.put(key, data)
    receipt = erase(store, group="", patient=patient, erasure_id="replayed")
    assert describe(receipt)["dataset", "affected"] == ("changed", 2)
    assert {case.group for case in load_dataset(store, "affected").test} == {"patient-0"}
    wrong = PatientDigest(key=patient.key, hmac="0" * 64)
    assert erase(store, group="", patient=wrong, erasure_id="wrong").objects == ()


def test_an_unfinished_extraction_goes_at_once_and_what_it_still_writes_later(store, hospital, monkeypatch):
    def write(dataset):
        set_id = make_set(store, dataset, commit=False)
        return f"features/{set_id}/"

    store.delete(f"features/{hospital.sets.affected}/manifest.json")
    running, others = write(hospital.affected), write(make_dataset(store, "third", (7, 8)))
    receipt = erase(store)
    assert receipt.complete_time
    assert describe(receipt)["feature set", hospital.sets.affected] == ("removed", 2)
    assert not list(store.list(running))
    write(hospital.affected)  # its process had read the volumes before, and ended before it could look again
    legacy = "features/" + "a" * 32 + "/"
    store.put(f"{legacy}part-0.safetensors", b"of an earlier version")
    Deletions(store).sweep()
    assert list(store.list(running)), "it is young"
    listed = store.sizes_bytes

    def age(prefix, *, before=None):
        return listed(prefix, before=None if before is None else datetime.now(UTC) + timedelta(days=1))

    monkeypatch.setattr(store, "sizes_bytes", age)
    Deletions(store).sweep()
    assert not [*store.list(running), *store.list(legacy)]
    assert list(store.list(others)), "it can still be completed"


def test_a_repeated_erasure_knows_the_datasets_of_the_interrupted_one(store, hospital):
    first = erase(store)
    again = erase(store, erasure_id="e2", models="delete")
    assert again.datasets == first.datasets
    assert describe(again)["model", "trained"] == ("removed", 2)
    other = erase(store, erasure_id="e3", group="patient-6")
    assert [one.dataset_id for one in other.datasets] == ["other"]


@pytest.mark.parametrize("kept", ["feature set", "model"])
def test_a_deleted_dataset_is_found_by_what_was_made_of_it(store, hospital, kept):
    Deletions(store).delete("datasets", "affected", dry_run=False)
    if kept == "model":
        Deletions(store).delete("features", hospital.sets.affected, dry_run=False)
    receipt = erase(store)
    assert [one.dataset_digest for one in receipt.datasets] == [hospital.affected.digest()]
    assert not [key for key in store.list("features/") if hospital.sets.affected in key]


def test_a_damaged_dataset_does_not_stop_an_erasure(store, hospital):
    store.put(dataset_key("damaged"), b"{}")
    receipt = erase(store)
    assert describe(receipt)["dataset", "damaged"] == ("kept", 0)
    assert describe(receipt)["dataset", "affected"] == ("changed", 2)
    assert receipt.complete_time


def test_a_patient_who_comes_back_is_erased_again(store, hospital):
    """A publication was killed between its commit and its look at the erasures."""
    before = store.get(dataset_key("affected"))
    erase(store)
    store.put(dataset_key("affected"), before)
    other = store.get(dataset_key("other"))
    make_erasures(store).look_again()
    assert {case.group for case in load_dataset(store, "affected").test} == {"patient-0"}
    assert store.get(dataset_key("other")) == other
    again = make_erasures(store).get("e1")
    assert again.complete_time


def test_what_is_stored_after_an_erasure_is_added_to_its_receipt(store, hospital):
    erase(store)
    make_observation(store, 9, PATIENT)
    assert describe(erase(store))["waiting observation", "drift"] == ("removed", 3)
    assert describe(erase(store))["waiting observation", "drift"] == ("removed", 3)


def test_two_processes_lose_nothing_of_a_receipt(store, hospital):
    erasures, real = make_erasures(store), make_erasures(store).eraser.remove

    def remove_late(erasure):
        other = ask(datasets=(ErasedDataset(dataset_id="elsewhere", dataset_digest="4" * 64),))
        make_erasures(store).erase(other, "")
        return real(erasure)

    erasures.eraser.remove = remove_late
    receipt = erasures.erase(ask(), "")
    assert {one.dataset_id for one in receipt.datasets} == {"affected", "elsewhere"}
    assert receipt.complete_time is None, "the other dataset was in no plan of this process"
    make_erasures(store).resume()
    assert make_erasures(store).get("e1").complete_time


def test_one_failing_erasure_does_not_stop_the_others(store, hospital, monkeypatch):
    monkeypatch.setattr(type(make_erasures(store).eraser), "remove", lambda *_: False)
    for erasure_id, group in (("bad.json", "patient-0"), ("e1", PATIENT)):
        assert erase(store, erasure_id=erasure_id, group=group).complete_time is None
    monkeypatch.undo()
    check_group_not_erased(make_erasures(store), "patient-10", "study")
    store.put(f"{erasures_prefix('features')}bad.json.json", b"damaged")
    with pytest.raises(PreconditionFailed):
        make_erasures(store).resume()
    assert make_erasures(store).get("e1").complete_time


def test_a_dataset_that_changes_meanwhile_is_tried_again(store, hospital, monkeypatch):
    replace = store.replace
    monkeypatch.setattr(store, "replace", lambda key, *rest: not key.startswith("datasets/") and replace(key, *rest))
    assert erase(store).complete_time is None
    assert list(store.list(f"{volumes_prefix('affected')}case-2/"))
    monkeypatch.undo()
    assert erase(store).complete_time
    assert not list(store.list(f"{volumes_prefix('affected')}case-2/"))


class Killed(Exception):
    """Stands for the end of the process."""


def test_an_interruption_at_any_write_is_completed(store, hospital):
    """Ends the process before each of the writes; the next start completes the erasure, with an equal receipt."""
    before = read_all(store)
    writes = 0

    def count():
        nonlocal writes
        writes += 1

    make_erasures(store.guarded_by(count)).erase(ask(), "")
    expected, receipt = read_all(store), make_erasures(store).get("e1")
    assert writes > 10
    for moment in range(writes):
        for key in store.list(""):
            store.delete(key)
        for key, data in before.items():
            store.put(key, data)
        left = iter(range(moment))

        def die(left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            make_erasures(store.guarded_by(die)).erase(ask(), "")
        make_erasures(store).resume()
        if moment <= 1:
            assert read_all(store) == before, "the receipt was not stored, so the caller repeats the call"
            continue
        Deletions(store).complete()  # a start runs both
        assert read_all(store) == expected, moment
        completed = make_erasures(store).get("e1")
        assert (describe(completed), completed.datasets) == (describe(receipt), receipt.datasets), moment
        assert completed.complete_time


def test_bad_requests(store, hospital):
    erase(store)
    key = make_erasures(store).get("e1").patient.key
    for fields, error in (
        ({"group": ""}, BadOption),
        ({"patient": PatientDigest(key=key, hmac="0" * 64)}, BadOption),
        ({"group": "", "patient": PatientDigest(hmac="0" * 64)}, BadOption),
        ({"group": "patient-2"}, Conflict),
        ({"models": "delete"}, Conflict),
        ({"group": "", "patient": PatientDigest(key=key, hmac="0" * 64)}, Conflict),
    ):
        before = read_all(store)
        with pytest.raises(error):
            erase(store, **fields)
        assert read_all(store) == before
    with pytest.raises(NotFound, match="features has no such erasure"):
        make_erasures(store).get("e2")


def test_a_bucket_that_keeps_versions_is_named(store_settings, monkeypatch):
    versioned = ObjectStore(store_settings.model_copy(update={"bucket": f"{store_settings.bucket}-versioned"}))
    versioned.ensure_bucket()
    make_dataset(versioned, "affected", (0, 1))
    assert ("object versions", "") not in describe(erase(versioned, dry_run=True)), "the negative control"
    versioned._client.set_bucket_versioning(versioned.bucket, VersioningConfig(ENABLED))
    receipt = erase(versioned)
    assert describe(receipt)["object versions", ""] == ("kept", 0)
    assert "until its lifecycle rule removes them" in receipt.objects[-1].note

    def refuse(prefix):
        raise StoreRefused("the keys may not list versions", subject=prefix, remedy="allow it")

    monkeypatch.setattr(versioned, "has_versions", refuse)
    assert "allow ListBucketVersions" in erase(versioned, erasure_id="e2").objects[-1].note
