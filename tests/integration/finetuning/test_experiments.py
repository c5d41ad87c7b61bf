"""Experiments through the finetuning service's own process: whole, killed in the middle, cancelled, refused."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time

import pytest

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingSpec
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, finetuning_pb2

MODELS = ("vfm", "vfm2")
TASKS = ("segmentation", "super_resolution")


@pytest.fixture(autouse=True)
def models(store, stored):
    """A second model, and one that sees T2 alone. No test goes on from the cells of another."""
    for key in list(store.list("cells/")):
        store.delete(key)
    card = store.read(model_card_key("vfm"), ModelCard)
    store.write(model_card_key("vfm2"), card.model_copy(update={"id": "vfm2"}))
    seen = card.preprocessing.model_copy(update={"modalities": ("t2w",)})
    store.write(model_card_key("t2-only"), card.model_copy(update={"id": "t2-only", "preprocessing": seen}))


def spec(**fields):
    values = {
        "model_ids": MODELS, "dataset_id": "demo", "tasks": TASKS, "seeds": [1],
        "recipe": finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10, learning_rate=8e-3),
        "bootstrap_resamples": 200, "permutations": 99,
    } | fields  # fmt: skip
    values["tasks"] = [{"name": name} for name in values["tasks"]]
    return experiment_pb2.ExperimentSpec(**values)


async def create(service, name, **fields):
    experiment_id = f"{service.prefix}-{name}"
    request = experiment_pb2.CreateExperimentRequest(experiment_id=experiment_id, spec=spec(**fields))
    return (await service.experiments.CreateExperiment(request)).experiment.experiment_id


async def get(service, experiment_id):
    return (
        await service.experiments.GetExperiment(experiment_pb2.GetExperimentRequest(experiment_id=experiment_id))
    ).experiment


async def until(service, experiment_id, condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition(experiment := await get(service, experiment_id)):
        assert time.monotonic() < end, f"{experiment}\n{(service.folder / 'service.log').read_text()[-4000:]}"
        await asyncio.sleep(0.1)
    return experiment


async def finish(service, experiment_id):
    return await until(service, experiment_id, lambda experiment: experiment.HasField("end_time"))


def forget(service, store, experiment_id):
    """Takes an experiment and everything of it out of the database and the bucket."""
    forget_all_but_cells(service, store, experiment_id)
    for key in list(store.list("cells/")):
        store.delete(key)


def forget_all_but_cells(service, store, experiment_id):
    """Takes an experiment, its checks and their jobs out of the database and the bucket."""
    for prefix in ("experiments", "checks", "jobs"):
        for key in list(store.list(f"{prefix}/{experiment_id}")):
            store.delete(key)
    with service.database.session() as session:
        connection = session.connection()
        for table, column in (
            ("stage_runs", "check_id"),
            ("job_attempts", "job_id"),
            ("checks", "id"),
            ("jobs", "id"),
            ("experiments", "id"),
        ):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} LIKE '{experiment_id}%'")


async def test_a_experiment_runs_every_cell_and_ends_with_its_report(service, store):
    name = await create(service, "whole", title="Two models")
    events = service.experiments.WatchExperiment(experiment_pb2.WatchExperimentRequest(experiment_id=name))
    watched = [event.experiment async for event in events]
    experiment = watched[-1]
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    assert experiment.progress.detail == "finished"
    assert [(cell.model_id, cell.task, cell.seed) for cell in experiment.cells] == [
        (model, task, 1) for task in TASKS for model in MODELS
    ]
    assert {cell.state for cell in experiment.cells} == {alignment_pb2.CHECK_STATE_SUCCEEDED}
    assert (experiment.counts.succeeded, experiment.progress.done, experiment.progress.total) == (4, 4, 4)
    assert max(event.counts.running + event.counts.queued for event in watched) == 4
    assert max(sum(one.state == alignment_pb2.CHECK_STATE_RUNNING for one in event.cells) for event in watched) <= 2

    for cell in experiment.cells:
        check = await service.get(cell.check_id)
        assert check.spec.model_sha256 == "c" * 64, "the weights are fixed for all cells"
        assert len(check.spec.dataset_digest) == 64
    report = json.loads(store.get(store.key(experiment.report_json.uri), sha256=experiment.report_json.sha256))
    assert report["experiment_id"] == name
    html = store.get(store.key(experiment.report_html.uri), sha256=experiment.report_html.sha256).decode()
    assert "Two models" in html
    table = store.get(store.key(experiment.cells_csv.uri), sha256=experiment.cells_csv.sha256).decode()
    assert len(list(csv.DictReader(io.StringIO(table)))) == 4
    request = experiment_pb2.GetExperimentReportRequest(experiment_id=name, format=common_pb2.REPORT_FORMAT_CSV)
    parts = [message.content async for message in service.experiments.GetExperimentReport(request)]
    assert b"".join(parts) == table.encode()

    listed = (await service.experiments.ListExperiments(experiment_pb2.ListExperimentsRequest())).experiments
    assert [one.experiment_id for one in listed] == [name]
    assert (len(listed[0].cells), listed[0].counts.succeeded) == (0, 4)

    # From the results of the cells alone, as another deployment has them: the same numbers, and nothing runs.
    forget_all_but_cells(service, store, name)
    jobs = len(service.starts())
    again = await finish(service, await create(service, "again", title="Two models"))
    assert again.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, again
    assert {cell.progress.detail for cell in again.cells} == {"its result was computed before"}
    assert len(service.starts()) == jobs
    repeated = json.loads(store.get(store.key(again.report_json.uri)))
    assert repeated | {"experiment_id": name} == report


async def test_a_control_trains_on_shuffled_labels_alone_and_its_shift_stands_beside_the_cell(service, store):
    name = await create(service, "controls", model_ids=MODELS[:1], tasks=TASKS[:1], shuffled_labels=True)
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    cell, control = experiment.cells
    assert (cell.shuffled_labels, control.shuffled_labels) == (False, True)
    assert store.get_json(f"jobs/{control.check_id}-pretrained/spec.json")["shuffled_labels"]
    assert "shuffled_labels" not in store.get_json(f"jobs/{cell.check_id}-pretrained/spec.json")
    networks = [job.rpartition("-")[2] for job in service.starts()]
    assert sorted(networks) == ["pretrained", "pretrained", "scratch", "specialised"], "they share the baselines"
    report = json.loads(store.get(store.key(experiment.report_json.uri)))
    (analysed,) = report["cells"]
    assert analysed["check_id"] == cell.check_id
    assert list(analysed["controls"]) == ["shuffled_labels"]
    page = store.get(f"checks/{control.check_id}/report.html").decode()
    assert "fine-tuned on targets of other cases" in page


async def test_numbers_of_training_cases_train_nested_subsets_that_all_models_and_networks_share(service, store):
    whole = await finish(service, await create(service, "before", tasks=TASKS[:1]))
    assert whole.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, whole
    before = service.starts()
    name = await create(service, "numbers", tasks=TASKS[:1], train_cases=[2, 3, 0])
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    assert [(cell.train_cases, cell.model_id) for cell in experiment.cells] == [
        (count, model) for count in (2, 3, 0) for model in MODELS
    ]
    every = [cell.progress.detail for cell in experiment.cells if not cell.train_cases]
    assert every == ["its result was computed before"] * 2, "cells with all cases are those of other experiments"
    started = service.starts()[len(before) :]
    specs = {job: store.get_json(f"jobs/{job}/spec.json")["train_cases"] for job in started}
    results = {job: store.get_json(f"jobs/{job}/result.json")["train_subset"] for job in started}
    subsets = {count: {tuple(results[job]) for job in started if specs[job] == count} for count in (2, 3)}
    assert sorted(specs.values()) == [2] * 4 + [3] * 4, "models share the baselines of a number"
    assert {count: len(drawn) for count, drawn in subsets.items()} == {2: 1, 3: 1}
    ((two,), (three,)) = subsets[2], subsets[3]
    assert (len(two), len(three)) == (2, 3)
    assert set(two) < set(three)
    report = json.loads(store.get(store.key(experiment.report_json.uri)))
    recorded = {(cell.get("train_cases", 0), cell.get("subset_size", 0)) for cell in report["cells"]}
    assert recorded == {(0, 0), (2, 2), (3, 3)}
    assert len({cell["subset_sha256"] for cell in report["cells"] if "subset_sha256" in cell}) == 2
    assert (report["label_efficiency"]["main"], report["label_efficiency"]["train_size"]) == (0, 4)
    assert len(report["averages"]) == 2, "of the cells with all cases alone"
    page = store.get(store.key(experiment.report_html.uri)).decode()
    assert "Answers, verdicts and correlations use only the cells with all 4 training cases." in page
    table = store.get(store.key(experiment.cells_csv.uri)).decode()
    assert sorted(row["train_cases"] for row in csv.DictReader(io.StringIO(table))) == [
        "2",
        "2",
        "3",
        "3",
        "all",
        "all",
    ]
    check = store.get(f"checks/{name}-segmentation-vfm-1-n2/report.html").decode()
    assert "trained on a subset of 2 cases" in check


async def test_all_cells_are_trained_by_the_recipe_that_the_first_seed_chose(service, store):
    recipe = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10)  # with seed 12, the second is better
    name = await create(
        service, "recipe", recipe=recipe, seeds=[12, 13], model_ids=MODELS[:1], tasks=TASKS[:1], shuffled_labels=True
    )
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    first, second, shuffled = (cell.check_id for cell in experiment.cells)
    # Whichever cell begins a trial first trains for all.
    trials = {job.rpartition("-vfm-")[2].partition("-")[2]: job for job in service.starts() if job[-3:-1] == "-r"}
    trials = {end.removeprefix("shuffled-"): job for end, job in trials.items()}
    assert sorted(trials) == ["pretrained-r1", "pretrained-r2", "scratch-r1", "scratch-r2"]
    own = [f"{second}-{network}" for network in ("pretrained", "scratch", "specialised")]
    assert sorted(set(service.starts()) - set(trials.values())) == sorted([
        f"{first}-specialised", *own, f"{shuffled}-pretrained"
    ])  # fmt: skip
    assert len(service.starts()) == 9

    def read_spec(job):
        return store.read(job_key(job, "spec.json"), TrainingSpec)

    chosen = read_spec(trials["pretrained-r2"]).recipe
    assert chosen != read_spec(trials["pretrained-r1"]).recipe
    trained = [*own[:2], f"{shuffled}-pretrained"]
    assert [read_spec(job).recipe for job in trained] == [chosen] * 3
    assert read_spec(trained[-1]).shuffled_labels
    settings = [
        store.get_json(f"checks/{check}/report.json")["result"]["settings"] for check in (first, second, shuffled)
    ]
    assert len({one[f"recipe_{network}"] for one in settings for network in ("pretrained", "scratch")}) == 1


async def test_cells_that_differ_in_their_seed_alone_are_compared_with_each_other(service, store, peers):
    name = await create(service, "seeds", model_ids=MODELS[:1], tasks=TASKS[:1], seeds=[1, 2, 7])
    calls = len(peers.mmd.calls)
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    report = json.loads(store.get(store.key(experiment.report_json.uri)))
    assert [list(cell["controls"]) for cell in report["cells"]] == [["between_seeds"]] * 3
    compared = [call for call in peers.mmd.calls[calls:] if call.x.HasField("inline")]
    after = [read_layer(store, cell.check_id, "features_after") for cell in experiment.cells]
    pairs = [(call.x.inline.layers[0], call.y.inline.layers[0]) for call in compared]
    assert [tuple(to_array(layer.features).tobytes() for layer in pair) for pair in pairs] == [
        (after[one].tobytes(), after[other].tobytes()) for one, other in ((0, 1), (1, 2), (2, 0))
    ]
    for call, cell in zip(compared, experiment.cells, strict=True):
        assert call.x.inline.case_ids == call.y.inline.case_ids == [f"case-{row}" for row in range(12)]
        reference = read_layer(store, cell.check_id, "features_reference")
        assert to_array(call.reference.inline.layers[0].features).tobytes() == reference.tobytes()

    # The results of the cells hold what is compared: another deployment computes the same controls.
    forget_all_but_cells(service, store, name)
    again = await finish(
        service, await create(service, "seeds-again", model_ids=MODELS[:1], tasks=TASKS[:1], seeds=[1, 2, 7])
    )
    assert json.loads(store.get(store.key(again.report_json.uri)))["cells"] == report["cells"]


def read_layer(store, check, stage):
    ref = store.get_json(f"checks/{check}/stages/{stage}.json")
    return read_feature_set(store, ref["feature_set"], ref["manifest_sha256"]).layers["stages.1"]


async def test_a_failed_cell_is_listed_and_does_not_stop_the_others(service, store):
    name = await create(service, "partly", model_ids=MODELS[:1], tasks=TASKS[:1], seeds=[1, 3])
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, experiment
    assert experiment.progress.detail == "finished; 1 of 2 cells have no result"
    failed = [cell for cell in experiment.cells if cell.state == alignment_pb2.CHECK_STATE_FAILED]
    assert {cell.seed for cell in failed} == {3}
    assert {cell.failure.reason for cell in failed} == {"BAD_VOLUME"}
    report = json.loads(store.get(store.key(experiment.report_json.uri)))
    assert len(report["missing"]) == 1
    assert "not a volume" in report["missing"][0]["reason"]


async def test_without_one_result_the_experiment_fails_with_the_first_sentence(service):
    experiment = await finish(service, await create(service, "none", seeds=[3], tasks=["segmentation"]))
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_FAILED
    assert experiment.failure.reason == "NO_CHECK_SUCCEEDED"
    assert "not a volume" in experiment.failure.message
    assert not experiment.HasField("report_json")


async def test_cancel_stops_its_checks_and_begins_no_more(service):
    name = await create(service, "stopped", seeds=[5])
    await until(service, name, lambda _: len(service.starts()) >= 3)
    await service.experiments.CancelExperiment(experiment_pb2.CancelExperimentRequest(experiment_id=name))
    experiment = await finish(service, name)
    assert experiment.state == experiment_pb2.EXPERIMENT_STATE_CANCELLED
    assert {cell.state for cell in experiment.cells} == {alignment_pb2.CHECK_STATE_CANCELLED}
    checks = (await service.checks.ListChecks(alignment_pb2.ListChecksRequest())).checks
    assert {check.state for check in checks} == {alignment_pb2.CHECK_STATE_CANCELLED}
    assert len(checks) == 2
    again = await service.experiments.CancelExperiment(experiment_pb2.CancelExperimentRequest(experiment_id=name))
    assert again.experiment.state == experiment_pb2.EXPERIMENT_STATE_CANCELLED


async def test_a_single_check_does_not_wait_for_a_experiment_to_end(service):
    name = await create(service, "long", seeds=[5, 6, 7, 8], max_running=64)
    await until(service, name, lambda _: len(service.starts()) >= 3)
    single = await service.create("single", dataset="slow")
    await service.until(single, lambda check: check.state == alignment_pb2.CHECK_STATE_RUNNING)
    await service.experiments.CancelExperiment(experiment_pb2.CancelExperimentRequest(experiment_id=name))
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=single))
    await finish(service, name)


async def test_create_is_idempotent_and_another_body_conflicts(service, store):
    name = await create(service, "same", dataset_id="slow")
    created = (await get(service, name)).create_time
    card = store.read(model_card_key("vfm"), ModelCard)
    changed = card.checkpoint.model_copy(update={"sha256": "f" * 64})
    store.write(model_card_key("vfm"), card.model_copy(update={"checkpoint": changed}))
    assert await create(service, "same", dataset_id="slow") == name, "whatever the store holds by now"
    assert (await get(service, name)).create_time == created
    with pytest.raises(Conflict, match="a different request"):
        await create(service, "same", dataset_id="slow", seeds=[2])
    await service.experiments.CancelExperiment(experiment_pb2.CancelExperimentRequest(experiment_id=name))
    await finish(service, name)


async def test_bad_requests_name_their_field_and_a_remedy(service):
    wrong = [
        ({"tasks": ["nothing"]}, BadOption, "choose one of"),
        ({"model_ids": ["vfm", "vfm"]}, BadOption, "name each model once"),
        ({"seeds": range(600)}, BadOption, "the maximum is 1,000"),
        ({"train_cases": [2, 5]}, BadOption, "5 training cases are more than the 4 of `train`"),
        ({"recipe": finetuning_pb2.Recipe(preset="nope")}, BadOption, "choose one of"),
        ({"model_ids": ["vfm", "t2-only"], "tasks": ["distortion"]}, BadOption, "distortion needs dwi"),
        ({"model_ids": ["vfm", "gone"]}, NotFound, "gone"),
        ({"dataset_id": "gone"}, NotFound, "dataset gone"),
        ({"dataset_digest": "0" * 64}, PreconditionFailed, "its digest is"),
    ]
    for change, error, words in wrong:
        with pytest.raises(error) as caught:
            await create(service, "bad", **change)
        assert words in str(caught.value), change
        assert caught.value.remedy
    with pytest.raises(BadOption) as caught:
        await service.experiments.CreateExperiment(
            experiment_pb2.CreateExperimentRequest(experiment_id="Not An Id", spec=spec())
        )
    assert caught.value.field == "experiment_id"
    with pytest.raises(BadOption, match="states"):
        await service.experiments.ListExperiments(experiment_pb2.ListExperimentsRequest(states=[0]))
    for call in (service.experiments.GetExperiment(experiment_pb2.GetExperimentRequest(experiment_id="gone")),
                 service.experiments.CancelExperiment(
                     experiment_pb2.CancelExperimentRequest(experiment_id="gone"))):  # fmt: skip
        with pytest.raises(NotFound, match="run `vfmalign experiments list`, or call ListExperiments"):
            await call
    assert not (await service.experiments.ListExperiments(experiment_pb2.ListExperimentsRequest())).experiments


async def test_a_retried_experiment_runs_its_failed_cells_and_writes_a_report_of_its_own(service, store):
    name = await create(service, "repaired", model_ids=("vfm",), tasks=("segmentation",), seeds=[1, 3])
    first = await finish(service, name)
    assert (first.counts.succeeded, first.counts.failed) == (1, 1)
    done = next(cell.check_id for cell in first.cells if cell.seed == 1)
    runs = service.runs(done)
    (service.folder / "go").touch()
    request = experiment_pb2.RetryExperimentRequest(experiment_id=name)
    again = (await service.experiments.RetryExperiment(request)).experiment
    assert not again.HasField("end_time")
    assert not again.HasField("report_json")
    second = await finish(service, name)
    assert (second.state, second.counts.succeeded) == (experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, 2)
    assert service.runs(done) == runs, "a check that had succeeded ran again"
    assert second.report_json.uri.endswith(f"experiments/{name}/retry-1/report.json")
    for experiment, cells in ((first, 1), (second, 2)):
        table = store.get(store.key(experiment.cells_csv.uri), sha256=experiment.cells_csv.sha256).decode()
        assert sum(bool(row["mmd2_std"]) for row in csv.DictReader(io.StringIO(table))) == cells, table
    with pytest.raises(PreconditionFailed, match="the experiment has succeeded"):
        await service.experiments.RetryExperiment(request)
