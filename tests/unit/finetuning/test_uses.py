"""Marks of the inputs that unfinished operations read, on a real S3 server."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.storage.keys import USES, deletion_key
from vfmalign.finetuning import uses
from vfmalign.finetuning.uses import Uses, mark_uses

CHECK = CheckSpec(model_id="m", dataset_id="d", task="segmentation")
MARKS = {
    "job": (JobSpec(kind="pretrain", dataset_id="d"), ["datasets/d/job/a"]),
    "check": (CHECK, ["datasets/d/check/a", "models/m/check/a"]),
    "experiment": (
        ExperimentSpec(model_ids=("m", "n"), dataset_id="d", tasks=("segmentation",)),
        ["datasets/d/experiment/a", "models/m/experiment/a", "models/n/experiment/a"],
    ),
}


@pytest.fixture
def bucket(store):
    yield store
    for key in store.list(""):
        store.delete(key)


@pytest.mark.parametrize("noun", MARKS)
def test_each_input_of_an_operation_is_marked(bucket, noun):
    spec, marks = MARKS[noun]
    mark_uses(bucket, noun, "a", spec)
    assert list(bucket.list(USES)) == [USES + mark for mark in marks]


def test_an_input_that_is_being_deleted_refuses(bucket):
    for kind, name in (("datasets", "d"), ("models", "m")):
        bucket.put(deletion_key(kind, name), b"")
        with pytest.raises(Unavailable, match="is being deleted") as caught:
            mark_uses(bucket, "check", "a", CHECK)
        assert caught.value.subject == name
        bucket.delete(deletion_key(kind, name))
    mark_uses(bucket, "check", "a", CHECK)


def test_marks_go_when_the_work_has_ended_but_not_while_it_is_being_created(bucket, monkeypatch):
    for noun, name in (("check", "a"), ("job", "a"), ("job", "b")):
        mark_uses(bucket, noun, name, CHECK)
    released = Uses(bucket)
    released.release({"job": frozenset({"b"})})
    assert len(list(bucket.list(USES))) == 6, "their rows may not be there yet"
    monkeypatch.setattr(uses, "_GRACE_S", -5.0)
    released.release({"job": frozenset({"b"})})
    assert len(list(bucket.list(USES))) == 6, "nothing has changed, and the last look was less than a minute ago"
    released.release({"job": frozenset({"a", "b"}), "check": frozenset()})
    assert list(bucket.list(USES)) == [
        f"{USES}{mark}" for mark in ("datasets/d/job/a", "datasets/d/job/b", "models/m/job/a", "models/m/job/b")
    ]
    released.release({"job": frozenset()})
    assert list(bucket.list(USES)) == []
