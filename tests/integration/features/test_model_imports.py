"""Imports of models with a token alone, and what hostile clients try."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.hostile_programs import INPUT, make_graph, make_state, node
from tests.integration.features.callers import ADA, BOB, ISSUER, VIEWER, describe_model

from vfmalign.client import Client
from vfmalign.core.domain.errors import BadCheckpoint, BadOption, Conflict, TooLarge, VfmalignError
from vfmalign.core.domain.models import Preprocessing, TensorCounts
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.core.storage.keys import model_card_key, model_prefix, provenance_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.features.imports import models as published_models
from vfmalign.features.imports.servicer import Imports, ModelServicer
from vfmalign.features.settings import FeaturesOptions
from vfmalign.models import cards
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state, to_safetensors

ARCHITECTURE = "profound_conv_micro"


@pytest.fixture(autouse=True)
def _empty(store: ObjectStore) -> Iterator[None]:
    yield
    for prefix in ("incoming/", "models/imported/"):
        for key in store.list(prefix):
            store.delete(key)


def test_a_model_is_stored_byte_for_byte_as_by_the_service_itself(
    as_caller: Callable[[str], Client], store: ObjectStore, store_settings: StoreSettings
) -> None:
    client, state = as_caller(ADA), random_state(get_architecture(ARCHITECTURE), 0)
    weights = to_safetensors(state)
    spec = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 64, 64))
    request = describe_model(weights, preprocessing=spec)
    assert client.models.upload("i1", weights) == request.weights_sha256
    model = client.models.publish(request)
    assert client.models.publish(request) == model, "the upload is deleted by then"
    assert list(store.list("incoming/")) == []
    other = ObjectStore(store_settings.model_copy(update={"bucket": store_settings.bucket + "-3"}))
    other.ensure_bucket()
    options = {"objective": "contrastive", "source": "from the tests", "preprocessing": spec}
    card = publish(other, "imported", state, architecture=ARCHITECTURE, **options)
    assert store.get(model_card_key("imported")) == other.get(model_card_key("imported"))
    assert store.get(card.checkpoint.key) == weights
    load_encoder(store, "imported")

    client.models.upload("i1", weights)
    with pytest.raises(Conflict, match="choose a new id"):
        client.models.publish(request.model_copy(update={"source": "elsewhere"}))


def test_a_model_names_who_imported_it_first(as_caller: Callable[[str], Client], store: ObjectStore) -> None:
    ada, bob = as_caller(ADA), as_caller(BOB)
    weights = to_safetensors(random_state(get_architecture(ARCHITECTURE), 0))
    request = describe_model(weights)
    ada.models.upload("i1", weights)
    first = ada.models.publish(request)
    assert first.created_by == f"{ISSUER.issuer}#ada"
    assert first.create_time is not None
    assert first.parent_sha256 == ""
    bob.models.upload("i1", weights)
    assert bob.models.publish(request) == first, "a repetition changes nothing"
    listed = {one.model_id: one for one in as_caller(VIEWER).features.list_models().models}
    assert listed["imported"] == ada.features.get_model("imported") == first
    assert (listed["micro"].created_by, listed["micro"].create_time) == ("", None), "published without a caller"

    store.delete(provenance_key(model_prefix("imported"), request.weights_sha256))
    bob.models.upload("i1", weights)
    old = bob.models.publish(request)  # a model of an earlier version stays as it is
    assert (old.created_by, old.create_time) == ("", None)


def test_a_model_states_its_licence_and_what_the_import_did(as_caller: Callable[[str], Client]) -> None:
    client, weights = as_caller(ADA), to_safetensors(random_state(get_architecture(ARCHITECTURE), 0))
    counts = TensorCounts(loaded=60, dropped=8)
    client.models.upload("i1", weights)
    model = client.models.publish(describe_model(weights, licence="CC-BY-NC-4.0", tensors=counts))
    assert (model.licence, model.tensors) == ("CC-BY-NC-4.0", counts)
    assert client.features.get_model("imported") == model
    with pytest.raises(ValueError, match="licence"):
        describe_model(weights, licence="see the file")


def test_a_program_that_may_not_run_is_refused(as_caller: Callable[[str], Client], store: ObjectStore) -> None:
    client = as_caller(ADA)
    graph = make_graph(node("from_file.default", filename="/etc/passwd"))
    weights = to_safetensors(make_state(graph))
    client.models.upload("i1", weights)
    request = describe_model(weights, architecture="torch_export", preprocessing=INPUT)
    with pytest.raises(BadCheckpoint, match="from_file"):
        client.models.publish(request)
    with pytest.raises(BadOption, match="does not describe its own input"):
        client.models.publish(request.model_copy(update={"preprocessing": None}))
    assert not store.exists(model_card_key("imported"))


def to_pickle() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (to_pickle(), "not safetensors"),
        (to_safetensors({"a": torch.zeros(2)}), "do not fit"),
        (to_safetensors({"a": torch.zeros(2)}) + b"more", "not safetensors"),
        (safetensors.torch.save({"a": torch.zeros(2)}, {"patient": "SURNAME"}), "metadata"),
    ],
    ids=["pickle", "other tensors", "trailing bytes", "metadata"],
)
def test_hostile_weights_are_refused(
    as_caller: Callable[[str], Client], store: ObjectStore, weights: bytes, error: str
) -> None:
    client = as_caller(ADA)
    client.models.upload("i1", weights)
    with pytest.raises(BadCheckpoint, match=error) as caught:
        client.models.publish(describe_model(weights))
    assert "SURNAME" not in str(caught.value)
    assert not store.exists(model_card_key("imported"))


def test_a_wrong_description_names_its_field(as_caller: Callable[[str], Client]) -> None:
    client = as_caller(ADA)
    weights = to_safetensors(random_state(get_architecture(ARCHITECTURE), 0))
    client.models.upload("i1", weights)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"architecture": "unknown"}, "unknown"),
        ({"primary_layer": "stages.99"}, "primary_layer"),
    ]
    for changes, message in cases:
        with pytest.raises(VfmalignError, match=message):
            client.models.publish(describe_model(weights, **changes))


def test_weights_beyond_the_limit_are_refused_before_they_are_sent(
    start_server: Callable[..., Any], caller_settings: dict[str, str], as_caller: Callable[..., Client]
) -> None:
    small = start_server(**caller_settings, VFMALIGN_FEATURES__MAX_WEIGHTS_BYTES=str(2**20))
    with pytest.raises(TooLarge, match="VFMALIGN_FEATURES__MAX_WEIGHTS_BYTES"):
        as_caller(ADA, small.address).models.upload("i1", bytes(2**20 + 1))


STEPS = (
    (published_models, "parse_weights"),
    (published_models, "to_safetensors"),
    (cards, "get_architecture"),
    (cards, "check_state"),
    (cards, "to_safetensors"),
)
"""What a publication calls, in order, by the module that calls it."""


@pytest.mark.parametrize("last", range(len(STEPS)), ids=["parse", "compare", "build", "check", "serialise"])
async def test_a_publication_ends_after_the_step_in_which_its_caller_leaves(
    store: ObjectStore, store_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    reached, left, steps = threading.Event(), threading.Event(), []

    def observe(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            steps.append(number)
            if number == last:
                reached.set()
                left.wait(60)
            return function(*args, **options)

        return call

    for number, (module, name) in enumerate(STEPS):
        monkeypatch.setattr(module, name, observe(number, getattr(module, name)))
    queue = WorkQueue(1, "imports")
    imports = Imports(store, Presigner(store_settings), queue, FeaturesOptions())
    weights = to_safetensors(random_state(get_architecture(ARCHITECTURE), 0))
    request = describe_model(weights)
    store.put(imports.get_uploads("i1").key(request.weights_sha256), weights)

    async def follow() -> None:
        async for _ in ModelServicer(imports).PublishModel(request.to_proto(), None):
            pass

    caller = asyncio.ensure_future(follow())
    assert await asyncio.to_thread(reached.wait, 60)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    left.set()
    await queue.run(steps.copy)  # the queue has one thread, so the publication has ended
    queue.close()
    assert steps == list(range(last + 1))
    assert list(store.list("models/imported/")) == []
