"""Messages as JSON documents, and labels of enums."""

from __future__ import annotations

import json

import pytest

from vfmalign.cli.views.enum_labels import ENDED, PRETRAINING_OBJECTIVES, get_labels, label, parse
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, features_pb2, finetuning_pb2


def test_a_document_has_numbers_for_64_bit_integers(finished_check: alignment_pb2.Check) -> None:
    content = to_json_dict(finished_check)
    assert content["spec"]["seed"] == 2**40
    assert content["result"]["test_groups"] == 16
    assert content["result"]["convergence"]["steps"] == 120
    assert content["result"]["curves"][0]["selected_step"] == 96
    assert content["stages"][0]["end_time"] == "2023-11-14T22:13:20Z"
    assert json.loads(json.dumps(content)) == content


def test_labels_and_values_are_each_others_inverse() -> None:
    for name in get_labels(alignment_pb2.CheckState):
        check = alignment_pb2.Check(state=parse(alignment_pb2.CheckState, name, "--state"))
        assert label(check, "state") == name
    assert get_labels(alignment_pb2.CheckState) == ("queued", "running", "succeeded", "failed", "cancelled")
    assert parse(common_pb2.Split, "val", "--split") == common_pb2.SPLIT_VAL
    with pytest.raises(BadOption) as caught:
        parse(common_pb2.Split, "validation", "--split")
    assert caught.value.remedy == "choose one of pretrain, train, val, test"


def test_a_value_of_a_newer_api_is_unknown() -> None:
    assert label(alignment_pb2.Check(), "state") == "unknown"
    newer = alignment_pb2.Check.FromString(bytes([3 << 3, 99]))
    assert newer.state == 99
    assert label(newer, "state") == "unknown"


def test_the_states_that_are_left_no_more_are_states_of_all_three() -> None:
    for enum in (finetuning_pb2.JobState, alignment_pb2.CheckState, experiment_pb2.ExperimentState):
        assert set(ENDED) < set(get_labels(enum))
    assert set(PRETRAINING_OBJECTIVES) < set(get_labels(features_pb2.Objective))
