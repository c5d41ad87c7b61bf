"""Whole jobs on a real S3 server: results, repeatability, interruption, bad input, two processes at once."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load as parse_safetensors

from vfmalign.core.artifacts import (
    JobProgress,
    JobResult,
    JobSpec,
    Preprocessing,
    Recipe,
    job_key,
    model_card_key,
    probe_id,
    weights_key,
)
from vfmalign.core.datasets import save_dataset
from vfmalign.core.errors import Cancelled, Conflict
from vfmalign.core.scores import level_of
from vfmalign.core.tasks import TASKS
from vfmalign.imaging.phantoms import PhantomSpec, Stack
from vfmalign.imaging.synthesis import synthesise_dataset
from vfmalign.models.cards import load_card, publish
from vfmalign.models.checkpoints import random_state, to_safetensors
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.job import run_job
from vfmalign.training.settings import TrainingOptions
from vfmalign.training.stop import Stop

ARCHITECTURE = "profound_conv_micro"
OPTIONS = TrainingOptions(device="cpu", threads=1, workers=2)
RECIPE = Recipe(epochs=2, steps_per_epoch=3, batch_size=2, learning_rate=3e-3, layer_decay=0.8)
# Half the usual number of voxels along each axis, so that generating and reading takes a fraction of a second.
SMALL = PhantomSpec(
    t2w=Stack((60, 60, 18), (1.2, 1.2, 3.0)),
    dwi=Stack((40, 40, 18), (2.0, 2.0, 3.0)),
    adc=Stack((40, 40, 18), (2.0, 2.0, 3.0)),
    lesion_free_share=0.0,
)
INPUT = Preprocessing(spacing_mm=(3.0, 2.0, 2.0), shape_DHW=(16, 32, 32))


@pytest.fixture(scope="module", autouse=True)
def _torch_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def dataset(store):
    # Of the seeds from 3 up, the first whose train, val and test hold cases with and without a significant lesion.
    return synthesise_dataset(store, "tiny", 31, {"pretrain": 4, "train": 4, "val": 2, "test": 3}, spec=SMALL)


@pytest.fixture(scope="module")
def model(store):
    """A "pretrained" model of random weights, with a small input."""
    return publish(
        store,
        "parent",
        random_state(ARCHITECTURES[ARCHITECTURE], 5),
        architecture=ARCHITECTURE,
        objective="masked_reconstruction",
        preprocessing=INPUT,
    )


@pytest.fixture(scope="module")
def make_spec(store, dataset, model):
    """Writes a spec and gives it back."""

    def make(job, **changes):
        fields = {
            "id": job,
            "kind": "finetune",
            "dataset": dataset.id,
            "dataset_digest": dataset.digest(),
            "architecture": ARCHITECTURE,
            "model": model.id,
            "model_sha256": model.checkpoint.sha256,
            "task": "super_resolution",
            "recipe": RECIPE,
            "seed": 1,
            "publish_as": f"{job}-encoder",
        }
        spec = JobSpec.model_validate(fields | changes)
        store.write(job_key(job, "spec.json"), spec)
        return spec

    return make


@pytest.fixture(scope="module")
def finish(store):
    """Runs a job in this process and reads its result."""

    def run(spec, stop=None):
        run_job(store, spec, OPTIONS, stop or Stop())
        return store.read(job_key(spec.id, "result.json"), JobResult)

    return run


@pytest.fixture(scope="module")
def long_spec(make_spec):
    """A job with enough epochs to be interrupted in, and with two probes on the way."""
    recipe = RECIPE.model_copy(update={"epochs": 5, "steps_per_epoch": 4, "probe_steps": (4, 12)})
    return lambda job: make_spec(job, recipe=recipe, task="segmentation")


@pytest.fixture(scope="module")
def undisturbed(long_spec, finish):
    return finish(long_spec("undisturbed"))


@pytest.fixture
def start(store, store_environment):
    """Starts a training process on a spec."""
    running = []

    def run(job):
        environment = store_environment | {"VFMALIGN_TRAINING__THREADS": "1", "VFMALIGN_TRAINING__DEVICE": "cpu"}
        command = [sys.executable, "-m", "vfmalign.training", store.uri(job_key(job, "spec.json"))]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def lasting(result):
    """A result without what may differ: times, ids of the job and of the model, addresses of figures."""
    content = result.model_dump()
    for name in ("job", "encoder", "stage_seconds", "figures"):
        del content[name]
    for point in content["curve"]:
        del point["elapsed_s"]
    for probe in content["probes"]:
        del probe["model"]
    return content | {"figures": [figure.sha256 for figure in result.figures]}


def wait_for(store, key, process):
    deadline = time.monotonic() + 120
    while not store.exists(key):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{key} did not appear"
        time.sleep(0.02)


# --- a job's artifacts ------------------------------------------------------------------------------------------------


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
            ("specialised", "segmentation"),
            ("pretrained", "super_resolution"),
            ("scratch", "super_resolution"),
            ("pretrained", "distortion"),
            ("specialised", "distortion"),
            ("pretrained", "translation"),
            ("pretrained", "classification"),
            ("specialised", "classification"),
        )
    }


def test_a_result_holds_the_curve_and_every_test_case(results, dataset):
    for (network, task), result in results.items():
        assert [point.epoch for point in result.curve] == [0, 1, 2]
        assert [point.step for point in result.curve] == [0, 3, 6]
        assert result.curve[0].train_loss is None
        assert [score.case for score in result.test_scores] == [case.id for case in dataset.test]
        assert result.metrics == TASKS[task].metrics
        values = [point.val_score for point in result.curve]
        assert values[result.selected_epoch] == max(values)
        assert result.selected_step == 3 * result.selected_epoch
        assert (result.weight_change is None) == (network == "specialised")
        assert result.parameters > 50_000
        assert {"load", "train", "validate", "checkpoint", "test", "publish", "figures"} <= set(result.stage_seconds)


def test_the_trivial_prediction_is_scored_on_the_same_cases_whatever_the_network(results):
    for result in results.values():
        assert [score.case for score in result.trivial_scores] == [score.case for score in result.test_scores]
        assert all(set(score.values) == {m.name for m in result.metrics} for score in result.trivial_scores)
    for task in ("distortion", "segmentation", "classification"):
        assert results["pretrained", task].trivial_scores == results["specialised", task].trivial_scores
    # What an untrained residual network returns is its input.
    trivial = level_of(TASKS["distortion"].primary_metric, results["pretrained", "distortion"].trivial_scores)
    assert 10 < trivial < 40


def test_a_classified_case_has_its_truth_and_probability(results):
    scores = results["pretrained", "classification"].test_scores
    assert {score.positive for score in scores} == {True, False}
    assert all(0 < score.values["auroc"] < 1 for score in scores)
    assert results["pretrained", "translation"].test_scores[0].positive is None


def test_the_training_loss_falls(results):
    curve = results["pretrained", "super_resolution"].curve
    assert curve[2].train_loss < curve[1].train_loss


def test_progress_is_written_for_every_epoch(store, results):
    for (network, task), result in results.items():
        keys = list(store.list(f"jobs/{network}-{task}/progress/"))
        assert [key.rsplit("/", 1)[1] for key in keys] == ["0000.json", "0001.json", "0002.json"]
        assert tuple(store.read(key, JobProgress) for key in keys) == result.curve


def test_figures_are_pictures_of_test_cases_by_generated_id(store, results, dataset):
    for result in results.values():
        pictures = [figure for figure in result.figures if figure.key.endswith(".png")]
        assert 2 <= len(pictures) <= 3
        for figure in result.figures:
            data = store.get(figure.key, sha256=figure.sha256)
            assert data.startswith(b"\x89PNG") or json.loads(data)["curve"]
        assert all(any(case.id in figure.caption for case in dataset.test) for figure in pictures)


def test_the_encoder_alone_is_published_with_its_parents_past(store, results, dataset, model):
    card = load_card(store, "pretrained-segmentation-encoder")
    assert (card.parent, card.objective, card.preprocessing) == (model.id, "supervised", INPUT)
    names = set(parse_safetensors(store.get(card.checkpoint.key, sha256=card.checkpoint.sha256)))
    assert names == set(random_state(ARCHITECTURES[ARCHITECTURE], 0))
    learned = card.pretraining[-1]
    assert learned.dataset_digest == dataset.digest()
    assert set(learned.groups) == {case.group for case in (*dataset.train, *dataset.val)}
    assert load_card(store, "scratch-super_resolution-encoder").parent == ""
    assert results["specialised", "segmentation"].encoder == ""


def test_classes_of_training_cases_are_in_the_result(results, dataset):
    labels = results["pretrained", "classification"].train_labels
    assert set(labels) == {case.id for case in dataset.train}
    assert set(labels.values()) == {True, False}
    assert labels == results["specialised", "classification"].train_labels
    assert results["pretrained", "segmentation"].train_labels == {}


def test_a_checkpoint_keeps_two_files_and_they_hold_no_pickle(store, results):
    for network, task in results:
        files = [key for key in store.list(f"jobs/{network}-{task}/checkpoint/") if key.endswith(".safetensors")]
        assert 1 <= len(files) <= 2
        assert all(parse_safetensors(store.get(key)) for key in files)


def test_a_done_job_is_left_alone(store, make_spec, results, start):
    before = {key: store.get(key) for key in store.list("jobs/pretrained-segmentation/")}
    process = start("pretrained-segmentation")
    assert process.wait(120) == 0
    assert {key: store.get(key) for key in store.list("jobs/pretrained-segmentation/")} == before


def other_bits(store, model_id, **changes):
    """Replaces a published model's weights, as a rerun that gives other bits would find them; and the card."""
    data = to_safetensors(random_state(ARCHITECTURES[ARCHITECTURE], 8))
    sha256 = hashlib.sha256(data).hexdigest()
    ref = store.put(weights_key(model_id, sha256), data)
    card = load_card(store, model_id).model_copy(update={"checkpoint": ref} | changes)
    store.write(model_card_key(model_id), card)
    return card


def forget_result(store, spec, **changes):
    """As a kill between publishing and the result leaves a job, whose rerun is to give other bits; and the card."""
    store.delete(job_key(spec.id, "result.json"))
    return other_bits(store, spec.publish_as, **changes)


def test_an_encoder_that_a_killed_run_published_is_kept(store, make_spec, finish):
    spec = make_spec("killed-before-its-result")
    first = finish(spec)
    card = forget_result(store, spec)
    again = finish(spec)
    assert (again.encoder, again.encoder_sha256) == (card.id, card.checkpoint.sha256)
    assert again.encoder_sha256 != first.encoder_sha256
    assert again.test_scores == first.test_scores
    assert load_card(store, spec.publish_as) == card


def test_an_encoder_of_another_job_is_never_kept(store, make_spec, finish, monkeypatch):
    spec = make_spec("late")
    finish(spec)
    card = forget_result(store, spec, source="job early")
    with pytest.raises(Conflict, match="another model"):
        finish(spec)
    # Published between the look at the beginning and the end of the training.
    monkeypatch.setattr("vfmalign.training.plan._check_free", lambda *_: None)
    with pytest.raises(Conflict, match="another model"):
        finish(spec)
    assert load_card(store, spec.publish_as) == card
    assert not store.exists(job_key(spec.id, "result.json"))


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("network", ["pretrained", "scratch"])
def test_a_rate_of_zero_changes_nothing(store, make_spec, finish, model, network, task):
    recipe = RECIPE.model_copy(update={"learning_rate": 0.0, "epochs": 1, "weight_decay": 1.0})
    spec = make_spec(f"still-{network}-{task}", recipe=recipe, network=network, task=task)
    result = finish(spec)
    assert result.weight_change == 0.0
    assert len({point.val_score for point in result.curve}) == 1
    assert result.selected_epoch == 0
    if network == "pretrained":
        assert result.encoder_sha256 == model.checkpoint.sha256


def test_the_seed_decides(make_spec, finish, results):
    first = results["pretrained", "super_resolution"]
    again = finish(make_spec("again"))
    other = finish(make_spec("other", seed=2))
    assert lasting(again) == lasting(first)
    assert other.encoder_sha256 != first.encoder_sha256
    assert other.curve[1].val_score != first.curve[1].val_score


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ("masked_reconstruction", ARCHITECTURE),
        ("contrastive", ARCHITECTURE),
        ("masked_reconstruction", "profound_vit_micro"),
        ("contrastive", "provicnet_fusion_micro"),
    ],
)
def test_pretraining_publishes_an_encoder_and_touches_no_test_case(
    store, dataset, make_spec, finish, objective, architecture
):
    recipe = RECIPE.model_copy(update={"layer_decay": 1.0, "epochs": 1})
    changes = {"kind": "pretrain", "objective": objective, "task": "", "model": "", "model_sha256": ""}
    job = f"pretrain-{objective}-{architecture}".replace("_", "-")
    result = finish(make_spec(job, recipe=recipe, architecture=architecture, **changes))
    assert result.test_scores == ()
    assert result.weight_change is None
    assert not result.metrics[0].higher_is_better
    values = [point.val_score for point in result.curve]
    assert values[result.selected_epoch] == min(values)
    card = load_card(store, result.encoder)
    assert (card.objective, card.checkpoint.sha256) == (objective, result.encoder_sha256)
    (seen,) = card.pretraining
    assert set(seen.groups) == {case.group for case in (*dataset.pretrain, *dataset.val)}
    assert not any(case.id in figure.caption for figure in result.figures for case in dataset.test)


def test_one_case_is_trained_on_in_patches(store, dataset, make_spec, finish):
    (case, *_) = dataset.train
    alone = type(dataset)(id="alone", held_out=False, train=(case,), val=(case,), test=(case,))
    save_dataset(store, alone)
    recipe = RECIPE.model_copy(update={"patch_shape_DHW": (16, 16, 16), "batch_size": 3})
    changes = {"dataset": "alone", "dataset_digest": alone.digest(), "recipe": recipe, "task": "segmentation"}
    result = finish(make_spec("one-case", **changes))
    assert [score.case for score in result.test_scores] == [case.id]
    assert result.curve[2].train_loss < result.curve[1].train_loss


@pytest.mark.parametrize("architecture", ["profound_vit_micro", "provicnet_fusion_micro"])
def test_transformers_are_fine_tuned_in_patches(make_spec, finish, architecture):
    recipe = RECIPE.model_copy(update={"patch_shape_DHW": (16, 32, 32)})
    changes = {"architecture": architecture, "network": "scratch", "model": "", "model_sha256": "", "recipe": recipe}
    result = finish(make_spec(f"patches-{architecture}".replace("_", "-"), **changes))
    assert [point.step for point in result.curve] == [0, 3, 6]
    assert result.encoder
    assert result.parameters > 500_000


# --- probes -----------------------------------------------------------------------------------------------------------


def test_probes_are_encoders_on_the_way(store, dataset, model, undisturbed):
    assert [probe.step for probe in undisturbed.probes] == [4, 12]
    curve = {point.step: point.val_score for point in undisturbed.curve}
    for probe in undisturbed.probes:
        assert probe.model == f"undisturbed-encoder-step-{probe.step}"
        assert probe.val_score == curve[probe.step]
        card = load_card(store, probe.model)
        assert (card.parent, card.objective, card.preprocessing) == (model.id, "supervised", INPUT)
        assert card.checkpoint.sha256 == probe.sha256
        assert card.source == f"job undisturbed, step {probe.step}"
        assert card.pretraining == load_card(store, undisturbed.encoder).pretraining
        names = set(parse_safetensors(store.get(card.checkpoint.key, sha256=probe.sha256)))
        assert names == set(random_state(ARCHITECTURES[ARCHITECTURE], 0))
    weights = {model.checkpoint.sha256, *(probe.sha256 for probe in undisturbed.probes)}
    assert len(weights) == 3, "the encoder did not move"


def test_probes_change_nothing_else_and_the_best_one_is_the_encoder(make_spec, finish, results):
    first = results["pretrained", "super_resolution"]
    probed = finish(make_spec("probed", recipe=RECIPE.model_copy(update={"probe_steps": (3, 6)})))
    assert lasting(probed) | {"probes": ()} == lasting(first) | {"probes": ()}
    assert first.probes == ()
    at = {probe.step: probe.sha256 for probe in probed.probes}
    assert at[probed.selected_step] == probed.encoder_sha256


def test_a_probe_is_published_before_its_validation_is_known(store, make_spec, finish, monkeypatch):
    spec = make_spec("early", recipe=RECIPE.model_copy(update={"probe_steps": (3,)}))
    seen = []

    def written(store, job, point):
        seen.append((point.step, store.exists(model_card_key(probe_id(spec.publish_as, 3)))))

    monkeypatch.setattr("vfmalign.training.job._write_progress", written)
    finish(spec)
    assert seen == [(0, False), (3, True), (6, True)]


def test_a_probe_that_a_killed_run_published_is_kept(store, make_spec, finish):
    spec = make_spec("killed-after-a-probe", recipe=RECIPE.model_copy(update={"probe_steps": (3,)}))
    first = finish(spec)
    for key in list(store.list(f"jobs/{spec.id}/")):
        if not key.endswith("spec.json"):
            store.delete(key)
    card = other_bits(store, probe_id(spec.publish_as, 3))
    again = finish(spec)
    assert again.probes[0].sha256 == card.checkpoint.sha256 != first.probes[0].sha256
    assert again.encoder_sha256 == first.encoder_sha256


def test_a_probe_s_id_that_another_model_has_ends_the_job_before_it_trains(store, make_spec, finish):
    spec = make_spec("taken", recipe=RECIPE.model_copy(update={"probe_steps": (3,)}))
    publish(
        store,
        probe_id(spec.publish_as, 3),
        random_state(ARCHITECTURES[ARCHITECTURE], 8),
        architecture=ARCHITECTURE,
        objective="random",
    )
    with pytest.raises(Conflict, match="another model"):
        finish(spec)
    assert not store.exists(job_key(spec.id, "checkpoint/latest.json"))


# --- interruption -----------------------------------------------------------------------------------------------------


def test_a_killed_job_goes_on_to_the_same_result(store, long_spec, start, undisturbed):
    spec = long_spec("killed")
    process = start("killed")
    wait_for(store, job_key("killed", "progress/0002.json"), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not store.exists(job_key("killed", "result.json"))
    second = start("killed")
    _, log = second.communicate(timeout=300)
    assert second.returncode == 0, log
    resumed = [json.loads(line) for line in log.splitlines() if '"resumed"' in line]
    assert resumed
    assert resumed[0]["step"] >= 8
    assert lasting(store.read(job_key(spec.id, "result.json"), JobResult)) == lasting(undisturbed)


def test_a_terminated_job_stores_its_step_and_goes_on_to_the_same_result(store, long_spec, start, finish, undisturbed):
    spec = long_spec("terminated")
    process = start("terminated")
    wait_for(store, job_key("terminated", "progress/0001.json"), process)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    step = store.get_json(job_key("terminated", "checkpoint/latest.json"))["step"]
    assert 4 <= step < 20
    assert not store.exists(job_key("terminated", "failure.json"))
    assert lasting(finish(spec)) == lasting(undisturbed)


class StopAfter(Stop):
    """Stops when it is asked for the n-th time."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def check(self):
        self.times -= 1
        if self.times < 0:
            self.ask()
        super().check()


def test_a_job_may_be_stopped_at_any_point(store, long_spec, finish, undisturbed):
    """Also while loading, between validation cases and while scoring; each attempt gets a little further."""
    spec, attempts, steps = long_spec("often"), 0, []
    while not store.exists(job_key("often", "result.json")):
        try:
            finish(spec, StopAfter(15 + attempts))
        except Cancelled:
            attempts += 1
            if store.exists(job_key("often", "checkpoint/latest.json")):
                steps.append(store.get_json(job_key("often", "checkpoint/latest.json"))["step"])
    assert attempts >= 4
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert any(step % 4 for step in steps), "no attempt was stopped within an epoch"
    assert lasting(finish(spec)) == lasting(undisturbed)


def test_two_processes_of_one_job_agree(store, long_spec, start, undisturbed):
    long_spec("twice")
    processes = [start("twice"), start("twice")]
    for process in processes:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
    result = store.read(job_key("twice", "result.json"), JobResult)
    assert lasting(result) == lasting(undisturbed)
    for figure in result.figures:
        store.get(figure.key, sha256=figure.sha256)


def test_lost_or_foreign_checkpoints_start_the_job_again(store, long_spec, finish, undisturbed):
    spec = long_spec("lost")
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    latest = store.get_json(job_key("lost", "checkpoint/latest.json"))
    store.delete(latest["state"]["key"])
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] == latest["step"]
    other = spec.model_copy(update={"seed": 99})
    with pytest.raises(Cancelled):
        finish(other, StopAfter(17))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] < latest["step"]
    assert lasting(finish(spec)) == lasting(undisturbed)
