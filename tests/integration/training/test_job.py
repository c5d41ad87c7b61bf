"""Whole jobs on a real S3 server: results and their repeatability."""

import json

import pytest
from safetensors.torch import load as parse_safetensors
from tests.integration.training.conftest import ARCHITECTURE, INPUT, RECIPE, comparable, replace_weights
from tests.prostate import SPECS

from vfmalign.core.domain.errors import Conflict
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.core.domain.scores import aggregate_scores
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.provenance import Provenance, record_provenance
from vfmalign.features.listing import get_model
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.training.__main__ import main


@pytest.fixture(scope="module")
def results(make_spec, finish):
    """One finished job of every network and of every task."""
    return {
        (network, task): finish(
            make_spec(
                f"{network}-{task}",
                network=network,
                task=task,
                publish_as="" if network == "specialised" else f"{network}-{task}-encoder",
            )
        )
        for network, task in (
            ("pretrained", "segmentation"),
            ("pretrained", "super_resolution"),
            ("scratch", "super_resolution"),
            ("pretrained", "distortion"),
            ("specialised", "distortion"),
            ("pretrained", "translation"),
            ("pretrained", "classification"),
            ("specialised", "classification"),
        )
    }


def test_a_published_encoder_names_the_creator_of_its_job_and_the_weights_it_began_with(
    store, make_spec, finish, model, results
):
    spec = make_spec("created", task="super_resolution")
    record_provenance(store, job_key("created", ""), spec.digest(), Provenance.of("https://idp#ada"))
    finish(spec)
    for name, created_by in (("created-encoder", "https://idp#ada"), ("pretrained-super_resolution-encoder", "")):
        card, provenance = get_model(store, name)
        assert (provenance.created_by, provenance.parent_sha256) == (created_by, model.checkpoint.sha256)
        assert provenance.created_at is not None
        assert card.pretraining[-1].dataset_digest == spec.dataset_digest
    assert get_model(store, "scratch-super_resolution-encoder")[1].parent_sha256 == ""
    before = load_card(store, "created-encoder"), get_model(store, "created-encoder")[1]
    store.delete(job_key("created", "result.json"))
    finish(spec)
    assert (load_card(store, "created-encoder"), get_model(store, "created-encoder")[1]) == before


def test_a_result_holds_the_curve_and_every_test_case(results, dataset):
    for (network, task), result in results.items():
        assert [point.epoch for point in result.curve] == [0, 1, 2]
        assert [point.step for point in result.curve] == [0, 2, 4]
        assert result.curve[0].train_loss is None
        assert [score.case for score in result.test_scores] == [case.id for case in dataset.test]
        assert result.metrics == SPECS[task].metrics
        values = [point.validation_score for point in result.curve]
        assert values[result.selected_epoch] == max(values[1:])
        assert result.selected_step == 2 * result.selected_epoch
        assert (result.weight_change is None) == (network == "specialised")
        assert result.parameters > 50_000
        assert {"load", "train", "validate", "checkpoint", "test", "publish", "figures"} <= set(result.stage_seconds)
        assert result.processor_seconds > 0


def test_the_naive_baseline_is_scored_on_the_same_cases_whatever_the_network(results):
    for result in results.values():
        assert [score.case for score in result.naive_baseline_scores] == [score.case for score in result.test_scores]
        assert all(set(score.values) == {m.name for m in result.metrics} for score in result.naive_baseline_scores)
    for task in ("distortion", "classification"):
        assert results["pretrained", task].naive_baseline_scores == results["specialised", task].naive_baseline_scores
    # What an untrained residual network returns is its input.
    naive_baseline = aggregate_scores(
        SPECS["distortion"].primary_metric, results["pretrained", "distortion"].naive_baseline_scores
    )
    assert 10 < naive_baseline < 40


def test_a_classified_case_has_its_truth_and_probability(results):
    scores = results["pretrained", "classification"].test_scores
    assert {score.positive for score in scores} == {True, False}
    assert all(0 < score.values["auroc"] < 1 for score in scores)
    assert results["pretrained", "translation"].test_scores[0].positive is None


def test_progress_is_written_for_every_epoch(store, results):
    for (network, task), result in results.items():
        keys = list(store.list(f"jobs/{network}-{task}/progress/"))
        assert [key.rsplit("/", 1)[1] for key in keys] == ["0000.json", "0001.json", "0002.json"]
        first, *others = (store.read(key, JobProgress) for key in keys)
        assert first.step_bytes is not None, "the memory of a step is stated before the first one"
        assert (first.model_copy(update={"step_bytes": None}), *others) == result.curve


def test_figures_show_test_cases_by_generated_id(store, results, dataset):
    for result in results.values():
        pictures = [figure for figure in result.figures if figure.key.endswith(".png")]
        assert 2 <= len(pictures) <= 3
        for figure in result.figures:
            data = store.get(figure.key, sha256=figure.sha256)
            assert data.startswith(b"\x89PNG") or json.loads(data)["curve"]
        assert all(any(case.id in figure.caption for case in dataset.test) for figure in pictures)


def test_the_encoder_is_published_without_head_and_with_its_parents_pretraining(store, results, dataset, model):
    card = load_card(store, "pretrained-segmentation-encoder")
    assert (card.parent_model_id, card.objective, card.preprocessing) == (model.id, "supervised", INPUT)
    names = set(parse_safetensors(store.get(card.checkpoint.key, sha256=card.checkpoint.sha256)))
    assert names == set(random_state(ARCHITECTURES[ARCHITECTURE], 0))
    learned = card.pretraining[-1]
    assert learned.dataset_digest == dataset.digest()
    assert set(learned.groups) == {case.group for case in (*dataset.train, *dataset.val)}
    assert load_card(store, "scratch-super_resolution-encoder").parent_model_id == ""
    assert results["specialised", "distortion"].encoder == ""


def test_classes_of_training_cases_are_in_the_result(results, dataset):
    labels = results["pretrained", "classification"].train_labels
    assert set(labels) == {case.id for case in dataset.train}
    assert set(labels.values()) == {True, False}
    assert labels == results["specialised", "classification"].train_labels
    assert results["pretrained", "segmentation"].train_labels == {}


def test_a_checkpoint_has_two_files_without_pickle(store, results):
    for network, task in results:
        files = [key for key in store.list(f"jobs/{network}-{task}/checkpoint/") if key.endswith(".safetensors")]
        assert 1 <= len(files) <= 2
        assert all(parse_safetensors(store.get(key)) for key in files)


@pytest.mark.usefixtures("process_as_before", "results")
def test_a_job_with_a_result_is_not_changed(store, store_environment, monkeypatch):
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    before = {key: store.get(key) for key in store.list("jobs/pretrained-segmentation/")}
    assert main([store.uri(job_key("pretrained-segmentation", "spec.json"))]) == 0
    assert {key: store.get(key) for key in store.list("jobs/pretrained-segmentation/")} == before


def forget_result(store, spec, **changes):
    """As a kill between publishing and the result leaves a job, whose rerun is to give other bits; and the card."""
    store.delete(job_key(spec.job_id, "result.json"))
    return replace_weights(store, spec.publish_as, **changes)


def test_an_encoder_published_by_a_killed_run_is_not_replaced(store, make_spec, finish):
    spec = make_spec("killed-before-its-result")
    first = finish(spec)
    card = forget_result(store, spec)
    again = finish(spec)
    assert (again.encoder, again.encoder_sha256) == (card.id, card.checkpoint.sha256)
    assert again.encoder_sha256 != first.encoder_sha256
    assert again.test_scores == first.test_scores
    assert load_card(store, spec.publish_as) == card


def test_an_encoder_of_another_job_is_never_adopted(store, make_spec, finish, monkeypatch):
    spec = make_spec("late")
    finish(spec)
    card = forget_result(store, spec, source="job early")
    with pytest.raises(Conflict, match="another model"):
        finish(spec)
    # Published between the look at the beginning and the end of the training.
    monkeypatch.setattr("vfmalign.training.plan.check_free", lambda *_: None)
    with pytest.raises(Conflict, match="another model"):
        finish(spec)
    assert load_card(store, spec.publish_as) == card
    assert not store.exists(job_key(spec.job_id, "result.json"))


@pytest.mark.parametrize(("network", "task"), [*(("pretrained", task) for task in SPECS), ("scratch", "distortion")])
def test_a_learning_rate_of_zero_changes_no_weight(store, make_spec, finish, model, network, task):
    recipe = RECIPE.model_copy(update={"learning_rate": 0.0, "epochs": 1, "weight_decay": 1.0})
    spec = make_spec(f"still-{network}-{task}", recipe=recipe, network=network, task=task)
    result = finish(spec)
    assert result.weight_change == 0.0
    assert len({point.validation_score for point in result.curve}) == 1
    assert result.selected_epoch == 1, "an untrained network is not a fine-tuned one, even where none is better"
    if network == "pretrained":
        assert result.encoder_sha256 == model.checkpoint.sha256


def test_another_seed_gives_another_result(make_spec, finish, results):
    first = results["pretrained", "super_resolution"]
    again = finish(make_spec("again"))
    other = finish(make_spec("other", seed=2))
    assert comparable(again) == comparable(first)
    assert other.encoder_sha256 != first.encoder_sha256
    assert other.curve[1].validation_score != first.curve[1].validation_score
    assert other.test_scores != first.test_scores


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ("masked_reconstruction", ARCHITECTURE),
        ("contrastive", ARCHITECTURE),
        ("masked_reconstruction", "profound_vit_micro"),
        ("contrastive", "provicnet_fusion_micro"),
    ],
)
def test_pretraining_publishes_an_encoder_and_reads_no_test_case(
    store, dataset, make_spec, finish, objective, architecture
):
    recipe = RECIPE.model_copy(update={"layer_decay": 1.0, "epochs": 1, "steps_per_epoch": 3})
    changes = {"kind": "pretrain", "objective": objective, "task": "", "model_id": "", "model_sha256": ""}
    job = f"pretrain-{objective}-{architecture}".replace("_", "-")
    result = finish(make_spec(job, recipe=recipe, architecture=architecture, **changes))
    assert result.test_scores == ()
    assert result.weight_change is None
    assert not result.metrics[0].higher_is_better
    values = [point.validation_score for point in result.curve]
    assert values[result.selected_epoch] == min(values)
    card = load_card(store, result.encoder)
    assert (card.objective, card.checkpoint.sha256) == (objective, result.encoder_sha256)
    (seen,) = card.pretraining
    assert set(seen.groups) == {case.group for case in (*dataset.pretrain, *dataset.val)}
    assert not any(case.id in figure.caption for figure in result.figures for case in dataset.test)


def test_one_case_is_trained_on_in_patches_and_the_loss_falls(store, dataset, make_spec, finish):
    (case, *_) = dataset.train
    alone = type(dataset)(id="alone", held_out=False, train=(case,), val=(case,), test=(case,))
    save_dataset(store, alone)
    recipe = RECIPE.model_copy(update={"patch_shape_dhw": (16, 16, 16), "batch_size": 3, "steps_per_epoch": 3})
    changes = {"dataset_id": "alone", "dataset_digest": alone.digest(), "recipe": recipe, "task": "segmentation"}
    result = finish(make_spec("one-case", **changes))
    assert [score.case for score in result.test_scores] == [case.id]
    assert result.curve[2].train_loss < result.curve[1].train_loss


@pytest.mark.parametrize("architecture", ["profound_vit_micro", "provicnet_fusion_micro"])
def test_transformers_are_fine_tuned_in_patches(make_spec, finish, architecture):
    recipe = RECIPE.model_copy(update={"patch_shape_dhw": (16, 32, 32)})
    changes = {"architecture": architecture, "network": "scratch", "model_id": "", "model_sha256": "", "recipe": recipe}
    result = finish(make_spec(f"patches-{architecture}".replace("_", "-"), **changes))
    assert [point.step for point in result.curve] == [0, 2, 4]
    assert result.encoder
    assert result.parameters > 500_000
