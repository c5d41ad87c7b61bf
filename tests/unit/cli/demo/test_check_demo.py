"""Ids of the demo's check, which follow from its parameters."""

from __future__ import annotations

from vfmalign.cli.demo.check_demo import DemoPlan


def test_the_check_of_one_seed_has_the_same_id_as_ever() -> None:
    plan = DemoPlan(3, "segmentation", "masked_reconstruction")
    assert plan.check == "demo-segmentation-masked-reconstruction-3"


def test_a_check_of_several_seeds_has_an_id_of_its_own_and_shares_data_and_model() -> None:
    one, three = (DemoPlan(3, "segmentation", "contrastive", seeds) for seeds in (1, 3))
    assert three.check == f"{one.check}-3-seeds"
    assert (three.dataset, three.model) == (one.dataset, one.model)
