"""Erasures that are interrupted, repeated, or that others disturb."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.features.erasure.conftest import (
    PATIENT,
    ask,
    describe,
    erase,
    make_dataset,
    make_observation,
    make_set,
    read_all,
)

from vfmalign.client.messages.erasure import ErasedDataset
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.core.storage.keys import erasures_prefix, volumes_prefix
from vfmalign.features.deletion import Deletions
from vfmalign.features.erasure import check_group_not_erased, make_erasures


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
