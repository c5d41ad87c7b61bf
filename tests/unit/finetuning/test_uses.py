"""Marks of the inputs that unfinished operations read, on a real S3 server."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.core.storage.keys import USES, deletion_key
from vfmalign.finetuning import uses
from vfmalign.finetuning.uses import Uses, marking_uses

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
    with marking_uses(bucket, noun, "a", spec):
        assert list(bucket.list(USES)) == [USES + mark for mark in marks]
    assert list(bucket.list(USES)) == [USES + mark for mark in marks]


def test_an_operation_that_is_not_created_leaves_no_mark(bucket):
    with pytest.raises(BadOption), marking_uses(bucket, "check", "a", CHECK):
        raise BadOption("the task is unknown", field="task")
    assert list(bucket.list(USES)) == []
    for kind, name in (("datasets", "d"), ("models", "m")):
        bucket.put(deletion_key(kind, name), b"")
        with pytest.raises(Unavailable, match="is being deleted") as caught, marking_uses(bucket, "check", "a", CHECK):
            pytest.fail("it began")
        assert caught.value.subject == name
        assert list(bucket.list(USES)) == []
        bucket.delete(deletion_key(kind, name))


def test_marks_follow_the_unfinished_operations(bucket, monkeypatch):
    def names(noun_and_name):
        return [f"{USES}{kind}/{noun_and_name}" for kind in ("datasets/d", "models/m")]

    request = CHECK.model_dump(mode="json")
    with marking_uses(bucket, "check", "new", CHECK):
        Uses(bucket).update({"job": {"b": request}})
        assert sorted(bucket.list(USES)) == sorted(names("check/new") + names("job/b")), "its row may not be there yet"
    kept = Uses(bucket)
    assert kept.is_due()
    kept.update({"job": {"a": request, "b": request}, "check": {}})
    assert not kept.is_due()
    assert set(bucket.list(USES)) == {*names("check/new"), *names("job/a"), *names("job/b")}
    monkeypatch.setattr(uses, "_GRACE_S", -5.0)
    kept.update({"job": {"a": request, "b": request}, "check": {}})
    assert len(list(bucket.list(USES))) == 6, "nothing has changed, and the last look was less than a minute ago"
    kept.update({"job": {"b": request}})
    assert list(bucket.list(USES)) == names("job/b")
    kept.update({"job": {}})
    assert list(bucket.list(USES)) == []
    kept.update({"check": {"reopened": request}})
    assert list(bucket.list(USES)) == names("check/reopened")
