"""Probes: encoders that a job publishes during training."""

import pytest
from safetensors.torch import load as parse_safetensors
from tests.integration.training.conftest import ARCHITECTURE, INPUT, RECIPE, comparable, replace_weights

from vfmalign.core.domain.errors import Conflict
from vfmalign.core.domain.jobs import probe_id
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state


def test_probes_are_encoders_of_intermediate_steps(store, dataset, model, undisturbed):
    assert [probe.step for probe in undisturbed.probes] == [4, 12]
    curve = {point.step: point.validation_score for point in undisturbed.curve}
    for probe in undisturbed.probes:
        assert probe.model_id == f"undisturbed-encoder-step-{probe.step}"
        assert probe.validation_score == curve[probe.step]
        card = load_card(store, probe.model_id)
        assert (card.parent_model_id, card.objective, card.preprocessing) == (model.id, "supervised", INPUT)
        assert card.checkpoint.sha256 == probe.sha256
        assert card.source == f"job undisturbed, step {probe.step}"
        assert card.pretraining == load_card(store, undisturbed.encoder).pretraining
        names = set(parse_safetensors(store.get(card.checkpoint.key, sha256=probe.sha256)))
        assert names == set(random_state(ARCHITECTURES[ARCHITECTURE], 0))
    weights = {model.checkpoint.sha256, *(probe.sha256 for probe in undisturbed.probes)}
    assert len(weights) == 3, "the encoder did not move"


def test_probes_change_nothing_else_and_the_best_one_is_the_encoder(make_spec, finish):
    first = finish(make_spec("unprobed"))
    probed = finish(make_spec("probed", recipe=RECIPE.model_copy(update={"probe_steps": (3, 6)})))
    assert comparable(probed) | {"probes": ()} == comparable(first) | {"probes": ()}
    assert first.probes == ()
    at = {probe.step: probe.sha256 for probe in probed.probes}
    assert at[probed.selected_step] == probed.encoder_sha256


def test_a_probe_is_published_before_its_validation_is_known(store, make_spec, finish, monkeypatch):
    spec = make_spec("early", recipe=RECIPE.model_copy(update={"probe_steps": (3,)}))
    seen = []

    def written(store, job, point):
        seen.append((point.step, store.exists(model_card_key(probe_id(spec.publish_as, 3)))))

    monkeypatch.setattr("vfmalign.training.job.write_progress", written)
    finish(spec)
    assert seen == [(0, False), (3, True), (6, True)]


def test_a_probe_published_by_a_killed_run_is_not_replaced(store, make_spec, finish):
    spec = make_spec("killed-after-a-probe", recipe=RECIPE.model_copy(update={"probe_steps": (3,)}))
    first = finish(spec)
    for key in list(store.list(f"jobs/{spec.job_id}/")):
        if not key.endswith("spec.json"):
            store.delete(key)
    card = replace_weights(store, probe_id(spec.publish_as, 3))
    again = finish(spec)
    assert again.probes[0].sha256 == card.checkpoint.sha256 != first.probes[0].sha256
    assert again.encoder_sha256 == first.encoder_sha256


def test_a_probe_id_of_another_model_fails_before_training(store, make_spec, finish):
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
    assert not store.exists(job_key(spec.job_id, "checkpoint/latest.json"))
