"""Options that several commands share."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.conftest import Invoke

from vfmalign.cli import exits
from vfmalign.cli.commands.api.experiments import parse_smallest_differences
from vfmalign.cli.options import (
    NETWORKS,
    parse_choice,
    parse_map,
)
from vfmalign.client.messages.experiments import SmallestDifference
from vfmalign.core.domain.errors import BadOption


def test_a_choice_is_one_of_the_values_or_names_them() -> None:
    assert parse_choice("scratch", NETWORKS, "--network") == "scratch"
    with pytest.raises(BadOption) as caught:
        parse_choice("scratched", NETWORKS, "--network")
    assert caught.value.field == "--network"
    assert caught.value.remedy == "choose one of pretrained, scratch, specialised"


def test_smallest_differences_name_their_metric() -> None:
    assert parse_smallest_differences(["lesion_dice=0.02", "psnr = .5"]) == (
        SmallestDifference(metric="lesion_dice", value=0.02),
        SmallestDifference(metric="psnr", value=0.5),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.02", "not METRIC=VALUE"),
        ("lesion_dice", "not METRIC=VALUE"),
        ("lesion_dice=small", "not METRIC=VALUE"),
        ("lesion_dice=0", "out of range"),
        ("lesion_dice=-0.1", "out of range"),
        ("lesion_dice=1.1e15", "out of range"),
        ("lesion_dice=nan", "finite number"),
        ("lesion_dice=inf", "finite number"),
    ],
)
def test_a_smallest_difference_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_smallest_differences([text])
    assert message in caught.value.message


def test_a_map_is_pairs_of_a_modality_and_an_input() -> None:
    assert parse_map(["t1w=input", "flair=second"]) == {"t1w": "input", "flair": "second"}
    assert parse_map(None) == {}


@pytest.mark.parametrize("pairs", [["t1w"], ["=input"], ["t1w="], ["t1w=a", "t1w=b"]])
def test_a_pair_of_another_form_is_refused_with_an_example(pairs: list[str]) -> None:
    with pytest.raises(BadOption, match="does not map another modality") as caught:
        parse_map(pairs)
    assert caught.value.field == "--map"
    assert "--map t1w=input" in caught.value.remedy


def test_a_check_has_three_seeds_and_as_many_trainings_of_random_weights_as_told(
    invoke: Invoke, created: list[Any]
) -> None:
    command = ("check", "d1", "--model", "m1", "--task", "segmentation", "--no-wait")
    assert invoke(*command)[0] == invoke(*command, "--random-seeds", "6")[0] == 0
    assert [(spec.seeds, spec.random_seeds) for spec in created] == [(3, 0), (3, 6)]
    assert invoke(*command, "--random-seeds", "21")[0] == exits.BAD_INPUT
