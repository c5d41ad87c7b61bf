"""Erasure of a patient from what the feature service stores: found before, gone after, and nothing else is touched."""

from functools import partial

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from tests.unit.features.erasure.conftest import CASES, PATIENT, describe, erase, make_dataset, read_all

from vfmalign.client.messages.erasure import PatientDigest
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed, StoreRefused
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.keys import dataset_key, erasures_prefix, model_card_key, uses_prefix
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.deletion import Deletions
from vfmalign.features.erasure import check_group_not_erased, check_not_erased, make_erasures


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
