"""Objects that are lost while a check runs or after it has ended: created again, or named with the remedy."""

from __future__ import annotations

import re

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.core.domain.errors import DataLoss
from vfmalign.core.storage.keys import check_key, job_key, model_card_key
from vfmalign.v1 import alignment_pb2, common_pb2, features_pb2

SUCCEEDED, FAILED = alignment_pb2.CHECK_STATE_SUCCEEDED, alignment_pb2.CHECK_STATE_FAILED


def read_report(store, check):
    return CheckReport.model_validate_json(store.get(store.key(check.result.report_json.uri)))


def attempts(check):
    return {stage.name: stage.attempts for stage in check.stages}


def truncate(store, key):
    store.put(key, store.get(key)[:-8])


def change_last_byte(store, key):
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


def change_digit(store, key):
    """Leaves valid JSON with another number."""
    data = store.get(key)
    place = data.index(b"0.") + 2
    digit = b"1" if data[place : place + 1] != b"1" else b"2"
    store.put(key, data[:place] + digit + data[place + 1 :])


def delete(store, key):
    store.delete(key)


def damage_features_before(peers, store, damage, times):
    """Damages the features before as soon as those after are stored, so that the MMD service finds it out."""
    state = {"left": times, "target": None}

    def after_commit(request, committed):
        pretrained = request.model_id == "vfm" and request.initialisation != features_pb2.INITIALISATION_RANDOM
        if pretrained and request.split == common_pb2.SPLIT_TEST:
            state["target"] = committed.manifest.parts[1].key
        if (request.model_id.endswith("-encoder") or request.verify) and state["left"]:
            state["left"] -= 1
            damage(store, state["target"])

    peers.features.after_commit = after_commit


async def test_a_part_that_is_lost_before_mmd_is_extracted_again(service, store, peers):
    undisturbed = await service.finish(await service.create("whole"))
    expected = read_report(store, undisturbed).result.rpg_specialised
    for number, damage in enumerate((delete, truncate, change_last_byte)):
        damage_features_before(peers, store, damage, times=1)
        check = await service.finish(await service.create(f"lost-{number}", dataset="twin"))
        assert check.state == SUCCEEDED, check.failure
        repeated = {name for name, number in attempts(check).items() if number > 1}
        assert repeated <= {"features_before", "mmd", "measures"}
        assert "features_before" in repeated
        report = read_report(store, check)
        assert report.result.rpg_specialised == expected
        (loss,) = report.run.losses
        assert loss.stage == "features_before"
        assert "/part-" in loss.message
        html = store.get(store.key(check.result.report_html.uri)).decode()
        assert "Created again in stage features before" in html
        # The further checks of `twin` share its baselines.
        assert len(service.starts()) == 6 + number, "a network was trained again"


async def test_what_is_lost_again_and_again_fails_the_check_with_object_and_remedy(service, store, peers):
    damage_features_before(peers, store, delete, times=100)
    check = await service.finish(await service.create("lost-for-good"))
    assert check.state == FAILED
    assert check.failure.reason == "DATA_LOSS"
    assert "s3://" in check.failure.message
    assert "/part-" in check.failure.message
    assert re.search("`vfmalign extract .* --verify`", check.failure.message)
    assert attempts(check)["features_before"] == 4, "three repairs"


async def test_features_that_differ_when_they_are_extracted_again_replace_everything_computed_from_them(
    service, store, peers
):
    name = await service.create("other-bits")
    first = await service.finish(name)
    before = next(
        committed for committed in peers.features.committed
        if committed.manifest.request.model_id == "vfm" and committed.manifest.request.split == "test"
        and committed.manifest.request.initialisation == "checkpoint"
    )  # fmt: skip
    store.delete(before.manifest.parts[0].key)
    store.delete(check_key(name, "report.html"))
    peers.features.seed, calls = 1, len(peers.mmd.calls)  # as another processor
    check = await service.until(name, lambda check: check.state == SUCCEEDED)
    again = peers.mmd.calls[calls:]
    assert any(call.projection for call in again), "mmd.json belongs to the former features"
    assert {name for name, number in attempts(check).items() if number > 1} == {
        "features_before", "mmd", "measures", "report"
    }  # fmt: skip
    assert first.result.rpg_specialised == check.result.rpg_specialised


async def test_a_lost_report_is_written_again_when_somebody_asks_for_it(service, store):
    check_id = await service.create("reported")
    first = await service.finish(check_id)
    digest = read_report(store, first).result_digest
    for name, damage in (
        ("report.json", delete), ("report.html", truncate), ("report.json", change_last_byte), ("report.html", delete),
    ):  # fmt: skip
        damage(store, check_key(check_id, name))
        check = await service.get(check_id)
        assert check.state == alignment_pb2.CHECK_STATE_RUNNING
        assert check.progress.reason == "ARTIFACT_LOST"
        assert f"{name}: " in check.progress.detail
        assert not check.HasField("result")
        check = await service.finish(check_id)
        assert check.state == SUCCEEDED, check.failure
        assert read_report(store, check).result_digest == digest
        assert check.result.shifts == first.result.shifts
    assert {name: number for name, number in attempts(check).items() if number > 1} == {"report": 5}
    assert len(service.starts()) == 3


async def test_a_lost_artifact_of_a_stage_is_created_again(service, store):
    check_id = await service.create("staged")
    first = await service.finish(check_id)
    for artifact, damage in (
        ("stages/validate.json", delete), ("stages/features_before.json", truncate), ("mmd.json", change_digit),
    ):  # fmt: skip
        damage(store, check_key(check_id, artifact))
        store.delete(check_key(check_id, "report.json"))
        check = await service.until(check_id, lambda check: check.state == SUCCEEDED)
        assert read_report(store, check).result_digest == read_report(store, first).result_digest
    assert attempts(check)["mmd"] >= 2
    assert len(service.starts()) == 3


async def test_a_lost_result_or_encoder_is_created_by_the_job_that_created_it(service, store):
    check_id = await service.create("published")
    first = await service.finish(check_id)
    encoder = f"{check_id}-encoder"
    for key, damage in (
        (job_key(f"{check_id}-pretrained", "result.json"), change_digit), (model_card_key(encoder), truncate),
        (f"models/{encoder}/{'e' * 64}.safetensors", delete),
    ):  # fmt: skip
        damage(store, key)
        store.delete(check_key(check_id, "report.json"))
        check = await service.until(check_id, lambda check: check.state == SUCCEEDED)
        assert store.exists(key)
        assert check.result.shifts == first.result.shifts
        assert [loss.stage for loss in read_report(store, check).run.losses][-1] == "job_pretrained"
    assert service.starts()[3:] == [f"{check_id}-pretrained"] * 3


async def test_weights_that_nobody_can_create_again_are_named_before_anything_is_computed(service, store, peers):
    store.delete("models/vfm/w")
    check = await service.finish(await service.create("imported"))
    assert check.state == FAILED
    assert check.failure.reason == "DATA_LOSS"
    assert "models/vfm/w: the weights are missing; import the model again" in check.failure.message
    assert "vfmalign models import --id vfm" in check.failure.message
    assert peers.features.calls == []


async def test_data_loss_of_a_peer_that_no_stage_can_repair_fails_the_check_by_name(service, peers):
    peers.mmd.error = DataLoss(
        "missing", kind="volume", subject="s3://b/volumes/d/c", remedy="import the dataset again"
    )
    check = await service.finish(await service.create("volume"))
    assert check.state == FAILED
    assert check.failure.message.startswith("s3://b/volumes/d/c: missing; import the dataset again; once the cause is")


async def test_a_lost_encoder_of_a_further_seed_is_created_again_by_its_job(service, store):
    name = await service.create("lost-second", seed=7, seeds=2)
    first = await service.finish(name)
    result = read_report(store, first).result
    store.delete(model_card_key(f"{name}-encoder-s2"))
    store.delete(store.key(first.result.report_json.uri))
    check = await service.until(name, lambda check: check.state == SUCCEEDED)
    assert store.exists(model_card_key(f"{name}-encoder-s2"))
    report = read_report(store, check)
    assert "job_pretrained_s2" in [loss.stage for loss in report.run.losses]
    assert service.starts()[6:] == [f"{name}-pretrained-s2"]
    assert report.result == result
    assert {stage.name for stage in check.stages if stage.attempts > 1} <= {
        "job_pretrained_s2", "features_after_s2", "mmd_s2", "report"
    }  # fmt: skip


async def test_what_a_chosen_trial_has_created_is_created_again_by_that_trial(service, store):
    name = await service.create("chosen", learning_rate=None)
    first = await service.finish(name)
    assert first.state == SUCCEEDED, first.failure
    result, trial, taken = read_report(store, first).result, f"{name}-pretrained-r1", f"{name}-pretrained"
    weights = f"models/{name}-encoder-r1/{'e' * 64}.safetensors"
    trained = service.starts()
    assert len(trained) == 5
    for key, damage, stage, again in (
        (check_key(name, "stages/recipe.json"), delete, "recipe", []),
        (job_key(taken, "result.json"), change_digit, "job_pretrained", []),
        (job_key(trial, "result.json"), delete, "job_pretrained_r1", [trial]),
        (model_card_key(f"{name}-encoder-r1"), truncate, "job_pretrained_r1", [trial]),
        (weights, delete, "job_pretrained_r1", [trial]),
    ):
        damage(store, key)
        store.delete(check_key(name, "report.json"))
        check = await service.until(name, lambda check: check.state == SUCCEEDED)
        trained += again
        assert service.starts() == trained, key
        assert store.exists(key)
        report = read_report(store, check)
        assert report.result == result
        assert [loss.stage for loss in report.run.losses if loss.stage != "report"][-1] == stage
