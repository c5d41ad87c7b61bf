"""Requests as plain values, each refusal with the request's field."""

import json
import math

import pytest
import torch

from vfmalign.core.domain.errors import BadOption, BadVolume, Conflict, Exhausted, InvalidInput, PreconditionFailed
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.limits.bounds import check_request
from vfmalign.core.rpc.page_tokens import PageTokens
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.provenance import Provenance
from vfmalign.features import converters
from vfmalign.features.extraction.study import Source, prepare_sources
from vfmalign.features.extraction.study_store import store_features
from vfmalign.features.listing import PageQuery, list_datasets, list_models
from vfmalign.imaging.volumes import encode
from vfmalign.v1 import common_pb2
from vfmalign.v1 import features_pb2 as pb

SHA = "a" * 64
TOKENS = PageTokens.of(pb.ListModelsRequest())


def key_of(uri: str) -> str:
    if not uri.startswith("s3://bucket/"):
        raise InvalidInput("not of this bucket", field="uri")
    return uri.removeprefix("s3://bucket/")


def extract_request(**change):
    study = pb.Study(volumes=[pb.StudyVolume(modality="t2w", nifti=b"t2")])
    return pb.ExtractRequest(**{"model_id": "m", "study": study} | change)


def test_extract_with_defaults():
    asked = converters.to_study_request(extract_request(), key_of)
    assert asked.sources == (Source("t2w", "study.volumes[0]", b"t2"),)
    assert (asked.pooling, asked.input_transform, asked.layers, asked.store_as) == ("mean", "identity", (), "")


@pytest.mark.parametrize(
    ("sent", "kept"), [({}, 1), ({"dwi_b_value": "low"}, 1), ({f"s{n}": "x" for n in range(16)}, 16)]
)
def test_a_monitor_is_told_the_b_values_that_the_request_does_not_name(store, card, sent, kept):
    study = common_pb2.ObservedStudy(observation_id="o", group="g", strata=sent)
    request = extract_request(observation=pb.StudyObservation(monitor_id="m", study=study))
    observation = converters.to_study_request(request, key_of).observation
    b_values = {"dwi_b_value": "800 s/mm²"}
    origin = converters.to_origin(card, "identity")
    observed = converters.to_observed(observation, {"l": torch.zeros(2)}, origin, b_values)
    strata = observed.observation.study.strata
    assert len(strata) == kept
    assert strata == (sent or b_values)


def test_extract_in_full():
    stored = common_pb2.ObjectRef(uri="s3://bucket/a/b", sha256=SHA)
    study = pb.Study(
        volumes=[pb.StudyVolume(modality="adc", stored=stored)],
        gland_mask=pb.GlandMask(nifti=b"gland"),
    )
    request = extract_request(
        study=study, checkpoint_sha256=SHA, layers=["stages.1"], pooling=pb.POOLING_NONE, store_as="mine",
        store_group="g", input_transform="half_resolution",
    )  # fmt: skip
    asked = converters.to_study_request(request, key_of)
    assert asked.sources == (
        Source("adc", "study.volumes[0]", StoredObject(key="a/b", sha256=SHA)),
        Source("gland", "study.gland_mask", b"gland"),
    )
    assert (asked.model_sha256, asked.layers, asked.pooling, asked.store_as) == (SHA, ("stages.1",), "none", "mine")


def volume(**source):
    return pb.Study(volumes=[pb.StudyVolume(**{"modality": "t2w"} | source)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_id": ""}, "model_id"),
        ({"model_id": "No Id"}, "model_id"),
        ({"checkpoint_sha256": "A" * 64}, "checkpoint_sha256"),
        ({"pooling": 9}, "pooling"),
        ({"input_transform": "blur"}, "input_transform"),
        ({"store_as": "../x"}, "store_as"),
        ({"store_as": "0" * 32}, "store_as"),
        ({"store_as": "mine"}, "store_group"),
        ({"store_group": "g"}, "store_as"),
        ({"study": volume(modality="", nifti=b"x")}, "study.volumes[0].modality"),
        ({"study": volume(modality="PET", nifti=b"x")}, "study.volumes[0].modality"),
        ({"study": volume(modality="gland", nifti=b"x")}, "study.volumes[0].modality"),
        ({"study": volume()}, "study.volumes[0]"),
        ({"study": pb.Study(gland_mask=pb.GlandMask())}, "study.gland_mask"),
        ({"study": volume(stored=common_pb2.ObjectRef(uri="s3://bucket/a"))}, "study.volumes[0].stored.sha256"),
        (
            {"study": volume(stored=common_pb2.ObjectRef(uri="s3://other/a", sha256=SHA))},
            "study.volumes[0].stored.uri",
        ),
    ],
)
def test_wrong_extract_requests_name_the_field(change, field):
    def receive(request):
        check_request(request)
        converters.to_study_request(request, key_of)

    with pytest.raises(InvalidInput) as caught:
        receive(extract_request(**change))
    assert caught.value.field == field


def bulk_request(**change):
    fields = {"model_id": "m", "dataset_id": "d", "split": common_pb2.SPLIT_VAL}
    return pb.ExtractDatasetRequest(**fields | change)


def test_bulk_requests():
    asked = converters.to_extraction_request(bulk_request())
    assert (asked.model_id, asked.dataset_id, asked.split, asked.initialisation) == ("m", "d", "val", "checkpoint")
    seeded = converters.to_extraction_request(
        bulk_request(initialisation=pb.INITIALISATION_RANDOM, initialisation_seed=2**63 - 1)
    )
    assert (seeded.initialisation, seeded.initialisation_seed) == ("random", 2**63 - 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_id": ""}, "model_id"),
        ({"dataset_id": "D"}, "dataset_id"),
        ({"dataset_digest": "1"}, "dataset_digest"),
        ({"split": 0}, "split"),
        ({"split": 77}, "split"),
        ({"pooling": pb.POOLING_NONE}, "pooling"),
        ({"initialisation": 7}, "initialisation"),
        ({"initialisation_seed": -1}, "initialisation_seed"),
    ],
)
def test_wrong_bulk_requests_name_the_field(change, field):
    with pytest.raises(BadOption) as caught:
        converters.to_extraction_request(bulk_request(**change))
    assert caught.value.field == field


def test_inline_features_up_to_the_limit():
    features = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4)}
    packed = converters.to_inline_layers(features, 40)
    assert [one.layer for one in packed] == ["a", "b"]
    assert to_array(packed[0].tensor, "a").tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(Exhausted, match=r"need 40 bytes, and a message at most 39; set `store_as`") as caught:
        converters.to_inline_layers(features, 39)
    assert caught.value.retry_after_s is None


def test_a_card_survives_packing(card, store):
    model = converters.to_model(card, store.uri, Provenance())
    assert model.checkpoint.uri == store.uri(card.checkpoint.key)
    assert list(model.preprocessing.modalities) == [
        "t2w",
        "dwi",
        "adc",
    ]
    assert tuple(model.preprocessing.spacing_mm) == card.preprocessing.spacing_mm
    assert [(layer.name, layer.channels) for layer in model.layers] == [(x.name, x.channels) for x in card.layers]
    assert model.objective == "contrastive"


def test_a_modality_sent_twice(store, card, small_volume):
    data = encode(small_volume(1))
    sources = [Source("t2w", "study.volumes[0]", data), Source("t2w", "study.volumes[1]", data)]
    with pytest.raises(BadVolume, match=r"study\.volumes\[1\]: t2w is sent twice"):
        prepare_sources(store, sources, card.preprocessing, "identity", Stages())


def test_stored_features_keep_their_meaning(store):
    features = {"stages.3": torch.ones(3), "pooled": torch.zeros(2)}
    first = store_features(store, "kept", "g", features)
    assert first["pooled"].key == "features/kept/pooled.safetensors"
    assert first["pooled"].size_bytes == len(store.get(first["pooled"].key, sha256=first["pooled"].sha256))
    assert store_features(store, "kept", "g", features) == first
    with pytest.raises(Conflict, match="other features are stored under this id"):
        store_features(store, "kept", "g", {"pooled": torch.ones(2)})
    with pytest.raises(Conflict, match="another group is stored under this id"):
        store_features(store, "kept", "h", features)
    with pytest.raises(BadOption, match="32 hex digits belong to feature sets"):
        store_features(store, "0" * 32, "g", features)


def test_models_are_listed_page_by_page(store, publish_model, capsys):
    for name in ("list-c", "list-a", "list-b"):
        publish_model(store, name)
    store.put("models/list-bad/model.json", b"{}")
    seen, unreadable, token, pages = [], {}, TOKENS.write("list"), 0
    while token:
        page = list_models(store, PageQuery.parse(pb.ListModelsRequest(page_size=2, page_token=token)))
        seen += [card.id for card, _ in page.items if card.id.startswith("list")]
        unreadable |= page.unreadable
        token, pages = page.next_token, pages + 1
    assert seen == ["list-a", "list-b", "list-c"]
    assert pages >= 2
    assert list(unreadable) == ["list-bad"]
    logged = capsys.readouterr()
    assert "list-bad" in logged.out + logged.err


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"shape_dhw": [100_000] * 3}, "preprocessing.shape_dhw.0 Input should be less than or equal to 4096"),
        ({"shape_dhw": [2**62, 1, 1]}, "preprocessing.shape_dhw.0 Input should be less than or equal to 4096"),
        ({"spacing_mm": [math.nan, 1.0, 1.0]}, "preprocessing.spacing_mm.0 Input should be a finite number"),
    ],
)
def test_an_invalid_card_affects_itself_alone(store, publish_model, change, cause):
    """A number beyond 64 bits in one card broke the list for everybody, and a NaN was INTERNAL."""
    good = publish_model(store, "hostile-a")
    content = good.model_dump(mode="json") | {"id": "hostile-b"}
    content["preprocessing"] |= change
    store.put("models/hostile-b/model.json", json.dumps(content).encode())
    page = list_models(store, PageQuery(1000, "hostile", TOKENS))
    response = converters.to_models(page, store.uri).to_proto()
    assert "hostile-a" in [model.model_id for model in response.models]
    assert [unreadable.id for unreadable in response.unreadable if unreadable.id == "hostile-b"]
    with pytest.raises(PreconditionFailed) as caught:
        load_card(store, "hostile-b")
    message = str(caught.value)
    assert message in [unreadable.message for unreadable in response.unreadable]
    assert message.startswith("hostile-b: ")
    assert cause in message
    assert message.endswith("publish the model again under a new id, or restore its card from a backup")


def test_the_largest_valid_card_can_be_shown(store, publish_model):
    card = publish_model(store, "largest-a").model_dump(mode="json")
    card |= {
        "architecture": "x" * 2**14,
        "source": "x" * 4096,
        "layers": [{"name": f"{i:0128}", "channels": 2**20} for i in range(256)],
        "preprocessing": {"modalities": ["t1w"], "spacing_mm": [50.0, 0.05, 50.0], "shape_dhw": [4096, 4096, 4]},
    }
    message = converters.to_model(ModelCard.model_validate_json(json.dumps(card)), store.uri, Provenance()).to_proto()
    assert message.ByteSize() < 2**16


def test_a_page_ends_before_its_descriptions_exceed_their_limit(store, publish_model, monkeypatch):
    for name in ("bytes-a", "bytes-b", "bytes-c"):
        publish_model(store, name)
    size = len(load_card(store, "bytes-a").model_dump_json())
    for limit, names in ((2 * size + 1, ["bytes-a", "bytes-b"]), (1, ["bytes-a"])):
        monkeypatch.setattr("vfmalign.features.listing.PAGE_BYTES", limit)
        page = list_models(store, PageQuery(3, "bytes", TOKENS))
        assert [card.id for card, _ in page.items] == names, "a page has at least one"
        assert page.next_token == TOKENS.write(names[-1])


def test_datasets_are_listed_page_by_page(store, dataset):
    for name in ("datalist-b", "datalist-a"):
        save_dataset(store, dataset.model_copy(update={"id": name}))
    store.put("datasets/datalist-bad/dataset.json", b'{"name": "datalist-bad"}')
    store.put("datasets/datalist-c/dataset.json", b"no JSON")
    first = list_datasets(store, PageQuery(2, "datalist", TOKENS))
    assert [found.dataset_id for found in first.items] == ["datalist-a", "datalist-b"]
    rest = list_datasets(store, PageQuery(3, *TOKENS.read(first.next_token), TOKENS))
    assert [found.dataset_id for found in rest.items] == ["small"]
    assert {name: error.remedy for name, error in rest.unreadable.items()} == {
        "datalist-bad": "import the dataset again",
        "datalist-c": "restore it from a backup",
    }
    assert rest.next_token == ""


@pytest.mark.parametrize(
    ("size", "token", "field"), [(-1, "", "page_size"), (1001, "", "page_size"), (0, "?", "page_token")]
)
def test_wrong_pages(size, token, field):
    request = pb.ListModelsRequest(page_size=size, page_token=token)
    check = PageQuery.parse if token else check_request
    with pytest.raises(BadOption) as caught:
        check(request)
    assert caught.value.field == field
