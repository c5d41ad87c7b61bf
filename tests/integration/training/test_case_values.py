"""Jobs on grades and numbers of phantoms: their stored predictions against scikit-learn's metrics."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error, r2_score, roc_auc_score
from tests.integration.training.conftest import OPTIONS, SMALL

from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.scores import aggregate_scores
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.imaging.phantoms.dataset import PhantomDataset
from vfmalign.training.job import run_job

TASKS = ("classification:grade=pirads", "regression:number=volume")


@pytest.fixture(scope="module")
def graded(store):
    spec = replace(SMALL, lesion_free_share=0.18)
    phantoms = PhantomDataset("graded", 7, {"train": 12, "val": 6, "test": 10}, spec, graded=True)
    for volumes in phantoms.generate():
        for key, data in volumes.items():
            store.put(key, data)
    dataset = phantoms.to_manifest()
    save_dataset(store, dataset)
    return dataset


@pytest.fixture(scope="module")
def results(graded, make_spec, finish):
    """One finished job of every network and of both tasks."""
    changes = {"dataset_id": graded.id, "dataset_digest": graded.digest()}
    return {
        (network, task): finish(
            make_spec(
                f"{network}-{task.partition(':')[0]}-of-cases",
                network=network,
                task=task,
                publish_as="" if network == "specialised" else f"{network}-{task.partition(':')[0]}-encoder",
                **changes,
            )
        )
        for network in ("pretrained", "specialised")
        for task in TASKS
    }


def values(scores, name):
    return np.array([score.values[name] for score in scores])


@pytest.mark.parametrize("network", ["pretrained", "specialised"])
def test_metrics_of_stored_predictions_are_scikit_learn_s(results, graded, network):
    grading, regression = (results[network, task] for task in TASKS)
    for result in (grading, regression):
        assert [score.case for score in result.test_scores] == [case.id for case in graded.test]
        assert result.parameters > 5_000
    assert grading.train_labels == {case.id: case.grades["pirads"] for case in graded.train}
    assert regression.train_labels == {}
    found = {
        metric.name: aggregate_scores(metric, result.test_scores)
        for result in (grading, regression)
        for metric in result.metrics
    }
    grade_N = np.array([score.truth for score in grading.test_scores])
    assert grade_N.tolist() == [case.grades["pirads"] for case in graded.test]
    assert [score.positive for score in grading.test_scores] == (grade_N >= 2).tolist()
    predicted_N = values(grading.test_scores, "quadratic_kappa")
    assert set(predicted_N) <= {0.0, 1.0, 2.0, 3.0}
    number_N = np.array([score.truth for score in regression.test_scores])
    assert number_N.tolist() == [case.numbers["volume"] for case in graded.test]
    volume_N = values(regression.test_scores, "r2")
    expected = {
        "auroc": roc_auc_score(grade_N >= 2, values(grading.test_scores, "auroc")),
        "quadratic_kappa": cohen_kappa_score(grade_N, predicted_N, labels=range(4), weights="quadratic"),
        "accuracy": accuracy_score(grade_N, predicted_N),
        "mae": mean_absolute_error(number_N, volume_N),
        "r2": r2_score(number_N, volume_N),
        "pearson": pearsonr(number_N, volume_N)[0],
    }
    if np.isnan(expected["quadratic_kappa"]):
        expected["quadratic_kappa"] = 0.0
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_checkpoint_of_a_regression_has_the_smallest_error(results, graded):
    result = results["pretrained", "regression:number=volume"]
    errors = [point.validation_score for point in result.curve]
    assert errors[result.selected_epoch] == min(errors[1:])
    mae, r2, pearson = result.metrics
    sd = np.std([case.numbers["volume"] for case in graded.train])
    assert mae.smallest_difference == pytest.approx(0.05 * sd, rel=0.05)
    assert mae.unit == "mL"
    naive = aggregate_scores(mae, result.naive_baseline_scores)
    median = np.median([case.numbers["volume"] for case in graded.train])
    assert naive == pytest.approx(np.mean([abs(case.numbers["volume"] - median) for case in graded.test]))
    assert aggregate_scores(pearson, result.naive_baseline_scores) is None
    assert aggregate_scores(r2, result.naive_baseline_scores) < 0.1


def test_a_case_without_the_number_is_refused_before_the_training(store, graded, make_spec):
    last = graded.val[-1].model_copy(update={"numbers": {}})
    dataset = graded.model_copy(update={"id": "incomplete", "val": (*graded.val[:-1], last)})
    save_dataset(store, dataset)
    spec = make_spec(
        "incomplete", dataset_id="incomplete", dataset_digest=dataset.digest(), task=TASKS[1], publish_as="none"
    )
    with pytest.raises(BadDataset, match=f"volume, which is missing in 1 of 28 cases, such as {last.id} of val"):
        run_job(store, spec, OPTIONS, ShutdownRequest())
    assert list(store.list("jobs/incomplete/progress/")) == []
