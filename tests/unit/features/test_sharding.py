"""A feature set extracted by shards is the one that a single machine extracts; missing shards are named."""

import json
import signal

import numpy as np
import pytest

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import features_prefix
from vfmalign.features.extraction.dataset_extraction import extract_dataset, extract_shard
from vfmalign.features.extraction.parts import ExtractionOptions, Hooks, Shard
from vfmalign.features.sharding import main

OPTIONS = ExtractionOptions(batch_size=2, part_cases=2, readers=2)  # 7 cases: parts of 2, 2, 2 and 1


class Killed(Exception):
    pass


def hooks(*, fail_at: int = -1) -> Hooks:
    """Surroundings in which the work is killed at a forward pass, counted from 0."""
    passes = iter(range(1000))

    def compute(function):
        if next(passes) == fail_at:
            raise Killed
        return function()

    return Hooks(compute, Stages(), lambda done, total: None, lambda: False)


def objects(store, feature_set: str) -> dict[str, bytes]:
    """Every object of a set, by its name."""
    keys = store.list(features_prefix(feature_set))
    return {key: store.get(key) for key in keys if not key.endswith("/request.json")}


@pytest.fixture
def request_(card, dataset):
    return ExtractDatasetRequest(model_id=card.id, dataset_id=dataset.id, split="test", layers=("stages.1", "pooled"))


@pytest.fixture
def single(store, models, request_):
    """The set as one machine makes it, and then nothing of it in the store."""
    result = extract_dataset(store, models, request_, OPTIONS, hooks())
    found = objects(store, result.feature_set_id)
    for key in found:
        store.delete(key)
    return result, found


@pytest.fixture
def command(store, card, dataset, store_environment, monkeypatch, capsys, tmp_path, process_as_before):
    """Runs the command in this process; gives its exit code and what it printed."""
    settings = {"VFMALIGN_FEATURES__PART_CASES": "2", "VFMALIGN_FEATURES__DEVICE": "cpu"}
    for name, value in (store_environment | settings).items():
        monkeypatch.setenv(name, value)
    asked = {"model_id": card.id, "dataset_id": dataset.id, "split": "SPLIT_TEST", "layers": ["stages.1", "pooled"]}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    store.put("requests/small.json", json.dumps(asked).encode())

    def run(work, *arguments, request=None):
        code = main([work, request or str(tmp_path / "request.json"), "--shards", "3", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_shards_and_a_reduction_make_the_set_of_a_single_machine(store, single, command):
    result, expected = single
    for shard in (2, 0, 1):
        code, out, log = command("extract", "--shard", shard)
        assert (code, out) == (0, ""), log
        assert '"progress"' in log
    code, out, _ = command("reduce")
    assert code == 0
    assert objects(store, result.feature_set_id) == expected
    answer = json.loads(out)
    assert (answer["feature_set_id"], answer["rows"]) == (result.feature_set_id, 7)
    assert answer["manifest"]["uri"] == store.uri(f"{features_prefix(result.feature_set_id)}manifest.json")
    # Once it is committed, every command is done at once.
    assert [command("extract", "--shard", 0)[0], command("reduce")[0]] == [0, 0]


def test_a_missing_shard_is_named_and_may_be_extracted_later(store, single, command, monkeypatch):
    result, expected = single
    assert command("extract", "--shard", 1, request=store.uri("requests/small.json"))[0] == 0
    code, out, log = command("reduce")
    assert (code, out) == (75, "")
    assert "parts of the shards 0, 2 of 3 are missing" in log
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert command("extract")[0] == 0
    assert "parts of the shards 0 of 3 are missing" in command("reduce")[2]
    assert command("extract", "--shard", 0)[0] == 0
    assert command("reduce")[0] == 0
    assert objects(store, result.feature_set_id) == expected


def test_waiting_ends_once_every_part_is_stored(store, single, command, monkeypatch):
    polls = []

    def extract_next(self, timeout_s):
        polls.append(len(objects(store, single[0].feature_set_id)))
        assert command("extract", "--shard", len(polls) - 1)[0] == 0

    monkeypatch.setattr("vfmalign.core.runtime.work_queue.ShutdownRequest.wait", extract_next)
    code, out, log = command("wait")
    assert (code, out) == (0, ""), log
    assert polls == [0, 2, 3]  # of 4 parts; shard 0 has two
    assert command("reduce")[0] == 0
    assert command("wait")[0] == 0
    assert len(polls) == 3


def test_waiting_is_not_satisfied_by_a_damaged_part(store, single, command, monkeypatch):
    for shard in range(3):
        command("extract", "--shard", shard)
    damaged = next(iter(objects(store, single[0].feature_set_id)))
    store.put(damaged, b"damaged")

    def repair(self, timeout_s):
        store.delete(damaged)
        for shard in range(3):
            command("extract", "--shard", shard)

    monkeypatch.setattr("vfmalign.core.runtime.work_queue.ShutdownRequest.wait", repair)
    assert command("wait")[0] == 0
    assert objects(store, single[0].feature_set_id) == {
        key: data for key, data in single[1].items() if not key.endswith("manifest.json")
    }


def test_waiting_outlasts_a_store_that_does_not_answer_and_stops_on_request(store, single, command, monkeypatch):
    def unavailable(*_):
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr("vfmalign.features.sharding.is_extracted", unavailable)
    monkeypatch.setattr("vfmalign.features.sharding.WAIT_POLL_S", 60.0)
    waits = []

    def terminate(self, timeout_s):
        waits.append(timeout_s)
        if len(waits) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("vfmalign.core.runtime.work_queue.ShutdownRequest.wait", terminate)
    assert command("wait")[0] == 143
    assert waits == [60.0, 60.0]


def test_a_killed_shard_continues_with_the_part_it_had_reached(store, models, request_, single):
    result, expected = single
    shard = Shard(0, 2)  # parts 0 and 2
    with pytest.raises(Killed):
        extract_shard(store, models, request_, OPTIONS, hooks(fail_at=3), shard=shard)
    reached = objects(store, result.feature_set_id)
    assert len(reached) == 1
    assert extract_shard(store, models, request_, OPTIONS, hooks(), shard=shard) == 2
    assert reached.items() < objects(store, result.feature_set_id).items() < expected.items()
    # A single machine goes on with what the shards have left.
    whole = extract_dataset(store, models, request_, OPTIONS, hooks())
    assert whole.computed_cases == 3
    assert objects(store, result.feature_set_id) == expected
    rows = read_feature_set(store, whole.feature_set_id).layers["pooled"]
    assert rows.shape == (7, 128)
    assert np.isfinite(rows).all()


def test_a_stopped_shard_says_so(store, single, command, monkeypatch):
    def stopped(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return extract_shard(*arguments, **options)

    monkeypatch.setattr("vfmalign.features.sharding.extract_shard", stopped)
    assert command("extract", "--shard", 0)[0] == 143
    assert objects(store, single[0].feature_set_id) == {}


def test_more_shards_than_parts_leave_some_with_nothing_to_do(store, models, request_, single):
    assert extract_shard(store, models, request_, OPTIONS, hooks(fail_at=0), shard=Shard(4, 9)) == 0
    assert extract_shard(store, models, request_, OPTIONS, hooks(), shard=Shard(3, 9)) == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", 2),
        ('{"colour": "red"}', 2),
        ('{"model_id": "absent", "dataset_id": "small", "split": "SPLIT_TEST"}', 2),
        ('{"model_id": "small-model", "dataset_id": "small", "split": "SPLIT_TRAIN"}', 3),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_its_code(command, tmp_path, content, code):
    (tmp_path / "other.json").write_text(content)
    assert command("extract", "--shard", 0, request=str(tmp_path / "other.json"))[0] == code


@pytest.mark.parametrize("arguments", [["extract"], ["extract", "--shard", "3"], ["extract", "--shard", "-1"]])
def test_a_shard_must_be_one_of_them(command, arguments, monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code == 2
