"""The demo's check: its ids, which follow from its parameters, and its trainings."""

from __future__ import annotations

import pytest

from vfmalign.cli.demo import check_demo
from vfmalign.cli.demo.check_demo import DemoPlan
from vfmalign.cli.resources import Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.recipes import get_recipe
from vfmalign.core.domain.recipes import get_finetuning_recipe
from vfmalign.finetuning.checks.trainings import list_trainings, list_trials
from vfmalign.finetuning.jobs.request import NETWORKS
from vfmalign.models.registry import MICRO_INPUT


def test_the_check_of_one_seed_has_the_same_id_as_ever() -> None:
    plan = DemoPlan(3, "segmentation", "masked_reconstruction")
    assert plan.check == "demo-segmentation-masked-reconstruction-3"


def test_a_check_of_several_seeds_has_an_id_of_its_own_and_shares_data_and_model() -> None:
    one, three = (DemoPlan(3, "segmentation", "contrastive", seeds) for seeds in (1, 3))
    assert three.check == f"{one.check}-3-seeds"
    assert (three.dataset, three.model) == (one.dataset, one.model)


def test_the_demo_trains_each_network_once_by_its_own_recipe(
    monkeypatch: pytest.MonkeyPatch, finished_check: Check, output: Output
) -> None:
    specs: list[CheckSpec] = []
    monkeypatch.setattr(Resource, "create", lambda resource, target, name, spec: specs.append(spec))
    monkeypatch.setattr(Resource, "follow", lambda *_: finished_check)
    check_demo._run_check(Target({}, None), DemoPlan(3, "segmentation", "contrastive"), output)
    (spec,) = specs
    assert (spec.seeds, list_trials(spec), len(list_trainings(spec))) == (1, (), 3)
    for network in NETWORKS:
        preset = get_finetuning_recipe(network, "segmentation", "demo")
        assert get_recipe(spec, network, MICRO_INPUT) == preset
