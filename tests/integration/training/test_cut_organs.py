"""Jobs on cases whose organs the model's field of view cuts off."""

from __future__ import annotations

import pytest
import torch
from tests.cut_organs import CASES, INPUT, LESION_INSIDE

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import volume_key
from vfmalign.imaging.volumes import encode
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state

ARCHITECTURE = "profound_conv_micro"
RECIPE = TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=2, learning_rate=1e-3)
SPLITS = {"train": CASES[:10], "val": CASES[10:15], "test": CASES[15:]}


@pytest.fixture(scope="module", autouse=True)
def _torch_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def cut_dataset(store):
    def save(case):
        volumes = {
            kind: store.put(volume_key("cut", f"c-{case.number}", kind), encode(volume))
            for kind, volume in case.volumes.items()
        }
        return Case(id=f"c-{case.number}", group=f"g-{case.number}", volumes=volumes)

    dataset = DatasetManifest(id="cut", **{split: [save(case) for case in cases] for split, cases in SPLITS.items()})
    save_dataset(store, dataset)
    return dataset


@pytest.fixture(scope="module")
def run(store, cut_dataset, make_spec, finish):
    """Runs a job on the cut dataset."""
    card = publish(
        store,
        "narrow",
        random_state(ARCHITECTURES[ARCHITECTURE], 5),
        architecture=ARCHITECTURE,
        objective="masked_reconstruction",
        preprocessing=INPUT,
    )

    def run_job(job, task, **changes):
        fields = {
            "dataset_id": cut_dataset.id,
            "dataset_digest": cut_dataset.digest(),
            "model_id": card.id,
            "model_sha256": card.checkpoint.sha256,
            "recipe": RECIPE,
            "task": task,
        }
        return finish(make_spec(job, **fields | changes))

    return run_job


@pytest.mark.parametrize(
    ("task", "cut", "first"),
    [("segmentation", 27, "c-11 (lesion 0 %); c-14"), ("classification", 20, "c-11 (lesion 0 %); c-14")],
)
def test_a_job_refuses_cut_organs_and_names_the_cases(run, task, cut, first):
    with pytest.raises(BadDataset) as refused:
        run(f"refused-{task}", task)
    assert refused.value.reason == "CUT_ORGANS"
    assert (refused.value.subject, refused.value.message.partition(": ")[0]) == (
        "dataset cut",
        f"less than 90 % of a structure lies in the field of view of narrow in {cut} of 30 cases",
    )
    assert f": {first} (" in refused.value.message
    assert "larger field of view" in refused.value.remedy
    assert "allow_cut_organs" in refused.value.remedy


def test_a_job_that_may_records_the_shares_and_scores_whole_organs(run):
    result = run("allowed", "segmentation", allow_cut_organs=True)
    recorded = {case.case: (case.split, case.inside) for case in result.inside}
    assert recorded == {
        f"c-{case.number}": (split, pytest.approx(case.inside)) for split, cases in SPLITS.items() for case in cases
    }
    scores = {score.case: score.values for score in result.test_scores}
    for case in SPLITS["test"]:
        share = LESION_INSIDE[case.lesion]
        values = scores[f"c-{case.number}"]
        assert values["lesion_dice"] is not None, "no lesion is absent because it lies outside"
        assert values["lesion_dice"] <= 2 * share / (1 + share) + 1e-6
        assert (
            values["gland_dice"] <= 2 * case.gland / (1 + case.gland) + 0.05
        )  # with the lesion, which is drawn over it
        assert values["false_lesion_volume"] is None


def test_a_task_without_structures_cuts_nothing(run):
    result = run("restored", "super_resolution")
    assert result.inside == ()
    assert b"inside" not in result.to_json(), "as in results of earlier versions"


def test_a_case_stays_positive_whose_lesion_lies_outside(run):
    result = run("classified", "classification", allow_cut_organs=True)
    assert [score.positive for score in result.test_scores] == [case.number % 4 != 0 for case in SPLITS["test"]]
