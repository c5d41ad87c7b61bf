"""Deletion below prefixes on a real S3 server: what goes, what refuses, and what an interrupted deletion leaves."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from vfmalign.core.domain.errors import Cancelled, PreconditionFailed, Unavailable
from vfmalign.core.storage.deletion import (
    Deleted,
    check_not_deleted,
    delete_below,
    delete_marked,
    keep_sweeping,
    list_marked,
    measure_below,
)
from vfmalign.core.storage.keys import deletion_key, uses_prefix
from vfmalign.core.storage.store.object_store import ObjectStore

PREFIXES = ("datasets/a/dataset.json", "datasets/a/", "volumes/a/")


@pytest.fixture
def filled(store: ObjectStore) -> Iterator[ObjectStore]:
    """A store with the datasets `a` and `ab`, of 21 objects each."""
    for name in ("a", "ab"):
        store.put(f"datasets/{name}/dataset.json", b"12345")
        for case in range(20):
            store.put(f"volumes/{name}/case-{case}/t2w.nii.gz", b"123")
    yield store
    for key in store.list(""):
        store.delete(key)


async def test_a_sweep_is_repeated_after_a_pause_and_after_an_error(store: ObjectStore) -> None:
    calls, has_repeated = iter(range(3)), threading.Event()

    def sweep() -> Deleted:
        if next(calls, None) is None:
            has_repeated.set()
        raise Unavailable("the store does not answer")

    sweeping = asyncio.create_task(keep_sweeping(store, "tests", sweep, 0.01))
    assert await asyncio.to_thread(has_repeated.wait, 60)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping


def test_everything_below_the_prefixes_goes_and_nothing_else(filled: ObjectStore) -> None:
    others = [key for key in filled.list("") if "/ab/" in key]
    assert measure_below(filled, PREFIXES) == Deleted(21, 65)
    assert delete_below(filled, PREFIXES) == Deleted(21, 65)
    assert list(filled.list("")) == others
    assert delete_below(filled, PREFIXES) == Deleted()


def test_a_mark_stands_until_the_last_object_is_gone(filled: ObjectStore) -> None:
    writes = itertools.count()

    def check() -> None:
        if next(writes) >= 9:
            raise Cancelled("the caller has left")

    with pytest.raises(Cancelled):
        delete_marked(filled.guarded_by(check), "datasets", "a", PREFIXES)
    assert not filled.exists("datasets/a/dataset.json"), "readers do not find it any more"
    left = measure_below(filled, PREFIXES)
    assert 0 < left.objects < 20
    assert list_marked(filled) == [("datasets", "a")]
    with pytest.raises(Unavailable) as caught:
        check_not_deleted(filled, "datasets", "a")
    assert caught.value.reason == "BEING_DELETED"
    check_not_deleted(filled, "datasets", "ab")
    check_not_deleted(filled, "models", "a")

    filled.put(f"{uses_prefix('datasets', 'a')}job/late", b"")
    assert delete_marked(filled, "datasets", "a", PREFIXES) == left, "what nobody can find is completed in any case"
    assert list_marked(filled) == []
    check_not_deleted(filled, "datasets", "a")


def test_an_object_in_use_stays_as_it_is(filled: ObjectStore) -> None:
    for user in ("check/c1", "job/j1"):
        filled.put(f"{uses_prefix('datasets', 'a')}{user}", b"")
    before = list(filled.list(""))
    with pytest.raises(PreconditionFailed, match="the check c1 and 1 other operation") as caught:
        delete_marked(filled, "datasets", "a", PREFIXES)
    assert (caught.value.subject, caught.value.reason) == ("a", "IN_USE")
    assert "vfmalign checks cancel c1" in caught.value.remedy
    assert list(filled.list("")) == before
    filled.delete(f"{uses_prefix('datasets', 'a')}check/c1")
    with pytest.raises(PreconditionFailed, match="the job j1 uses it"):
        delete_marked(filled, "datasets", "a", PREFIXES)
    assert delete_marked(filled, "datasets", "ab", ("datasets/ab/", "volumes/ab/")).objects == 21


def test_of_an_operation_and_a_deletion_at_the_same_time_one_sees_the_other(filled: ObjectStore) -> None:
    filled.put(deletion_key("datasets", "a"), b"")
    with pytest.raises(Unavailable):  # the operation wrote its mark after the deletion's
        check_not_deleted(filled, "datasets", "a")
    filled.delete(deletion_key("datasets", "a"))
    filled.put(f"{uses_prefix('datasets', 'a')}job/j1", b"")
    check_not_deleted(filled, "datasets", "a")
    with pytest.raises(PreconditionFailed):  # the deletion wrote its mark after the operation's
        delete_marked(filled, "datasets", "a", PREFIXES)
