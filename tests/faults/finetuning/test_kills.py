"""kill -9 of the orchestrator: checks, their seeds and experiments end with the undisturbed result."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from tests.integration.finetuning.test_experiments import create, finish, forget, models, until  # noqa: F401
from tests.integration.finetuning.test_service import STAGES
from tests.integration.finetuning.test_training_seeds import FIRST, SECOND, SUCCEEDED, read_report, states, succeeded

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.storage.keys import check_key
from vfmalign.v1 import alignment_pb2, experiment_pb2


async def test_a_check_that_is_killed_during_features_training_and_mmd_ends_with_the_same_result(service, store, peers):
    (service.folder / "go").touch()
    undisturbed = await service.finish(await service.create("steady", seed=5))
    first, calls = len(peers.features.commits), len(peers.mmd.calls)
    (service.folder / "go").unlink()

    peers.stop()
    name = await service.create("steady2", dataset="twin", seed=5)
    await service.until(name, lambda check: check.progress.reason == "UNAVAILABLE")
    await service.kill()
    peers.start()
    await service.start()

    await service.until(name, lambda _: len(service.starts()) == 6)
    await service.kill()
    peers.mmd.delay_s = 1.0
    (service.folder / "go").touch()
    await service.start()

    await service.until(name, lambda _: len(peers.mmd.calls) > calls)
    await service.kill()
    peers.mmd.delay_s = 0.0
    await service.start()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail

    reports = [
        CheckReport.model_validate_json(store.get(store.key(done.result.report_json.uri))).result
        for done in (undisturbed, check)
    ]
    assert reports[0].rpg_specialised == reports[1].rpg_specialised
    assert reports[0].verdict == reports[1].verdict
    assert reports[0].networks[0].curve == reports[1].networks[0].curve
    succeeded = [stage for stage, outcome in service.runs(name) if outcome == "succeeded"]
    assert sorted(succeeded) == sorted(STAGES)
    assert sorted(service.starts()[3:]) == [f"{name}-{network}" for network in ("pretrained", "scratch", "specialised")]
    again = peers.features.commits[first:]
    assert len(again) == len(set(again)), "a finished extraction was asked for again"


@pytest.mark.parametrize(
    "fields",
    [{}, {"model_ids": ["vfm"], "train_cases": [2, 0], "frozen": True}],
    ids=["plain", "train-cases-and-frozen"],
)
async def test_an_experiment_that_is_killed_during_two_checks_ends_with_the_same_report(service, store, fields):
    (service.folder / "go").touch()
    name = await create(service, "steady", seeds=[5], **fields)
    steady = await finish(service, name)
    assert steady.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, steady
    report = json.loads(store.get(store.key(steady.report_json.uri)))
    forget(service, store, name)
    first = len(service.starts())

    (service.folder / "go").unlink()
    await create(service, "steady", seeds=[5], **fields)
    await until(service, name, lambda _: len(service.starts()) >= first + 2)
    await service.kill()
    (service.folder / "go").touch()
    await service.start()
    await until(service, name, lambda experiment: experiment.counts.succeeded >= 2)
    await service.kill()
    await service.start()
    again = await finish(service, name)
    assert again.state == experiment_pb2.EXPERIMENT_STATE_SUCCEEDED, again
    assert json.loads(store.get(store.key(again.report_json.uri))) == report, "shows what differs"
    assert again.report_json.sha256 == steady.report_json.sha256
    assert again.cells_csv.sha256 == steady.cells_csv.sha256
    assert len(service.starts()) == len(set(service.starts()[:first])) + first, "a job was started twice"


async def test_a_kill_between_two_seeds_repeats_nothing_of_the_first(service, store, peers):
    name = await service.create("between", seed=4, seeds=2)
    await service.until(name, lambda check: states(check, "mmd", "job_scratch", "job_specialised") == [True] * 3)
    await service.started(6)
    await service.kill()
    (service.folder / "go").touch()
    await service.start()
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    assert succeeded(service, name) == sorted(stage.name for stage in check.stages)
    assert sorted(service.starts()) == sorted(f"{name}-{training}" for training in FIRST + SECOND)
    assert len(peers.features.commits) == len(set(peers.features.commits)), "a finished extraction was repeated"
    assert len([call for call in peers.mmd.calls if call.test.permutations]) == 2


def rewind_to_recipe(service, store, name, *, stored):
    """Leaves a check as a kill in its stage `recipe` leaves it, before or after the artifact is stored."""
    with service.database.engine.begin() as connection:
        earlier = "'validate', 'features_reference', 'features_before', 'features_random'"
        for statement in (
            f"DELETE FROM stage_runs WHERE check_id = :id AND stage NOT IN ({earlier}, 'recipe') "
            "AND stage NOT LIKE '%\\_r_' ESCAPE '\\'",
            "UPDATE stage_runs SET outcome = 'running', finished_at = NULL, artifact_sha256 = '' "
            "WHERE check_id = :id AND stage = 'recipe' AND attempt = "
            "(SELECT max(attempt) FROM stage_runs WHERE check_id = :id AND stage = 'recipe')",
            "DELETE FROM job_attempts WHERE job_id = :id || '-specialised'",
            "DELETE FROM jobs WHERE id IN (:id || '-pretrained', :id || '-scratch', :id || '-specialised')",
            "UPDATE checks SET state = 'running', finished_at = NULL, report = NULL WHERE id = :id",
        ):
            connection.execute(sa.text(statement), {"id": name})
    kept = {"validate", "features_reference", "features_before", "features_random", *(["recipe"] if stored else [])}
    kept_keys = {check_key(name, "spec.json"), *(check_key(name, f"stages/{stage}.json") for stage in kept)}
    for prefix in (
        f"checks/{name}/",
        *(f"jobs/{name}-{network}/" for network in ("pretrained", "scratch", "specialised")),
    ):
        for key in set(store.list(prefix)) - kept_keys:
            store.delete(key)


async def test_a_kill_while_a_recipe_is_chosen_repeats_no_trial(service, store):
    name = await service.create("choosing", learning_rate=None)
    first = await service.finish(name)
    assert first.state == SUCCEEDED, first.progress.detail
    report, trained = read_report(store, first), service.starts()
    assert len(trained) == 5
    for stored in (False, True):
        await service.kill()
        rewind_to_recipe(service, store, name, stored=stored)
        await service.start()
        check = await service.finish(name)
        assert check.state == SUCCEEDED, check.progress.detail
        assert read_report(store, check).result == report.result
        trained.append(f"{name}-specialised")
        assert service.starts() == trained, "the two others take the results of their trials"
        outcomes = [outcome for stage, outcome in service.runs(name) if stage == "recipe"]
        assert outcomes == ["interrupted", "succeeded"], "once its artifact is stored, the stage is not run again"
