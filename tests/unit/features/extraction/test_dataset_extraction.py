"""A dataset's feature set: its rows, idempotence, resumption, cancelling, and what bad input does."""

import threading

import numpy as np
import pytest
import torch
from tests.cut_organs import CASES, INPUT

from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import (
    BadDataset,
    BadOption,
    BadVolume,
    Cancelled,
    CaseOrderMismatch,
    DataLoss,
    DigestMismatch,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_sets import Manifest, read_feature_set
from vfmalign.core.storage.keys import features_prefix, volume_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.erasure import make_erasures
from vfmalign.features.extraction.dataset_extraction import extract_dataset
from vfmalign.features.extraction.extractor import extract
from vfmalign.features.extraction.parts import ExtractionOptions, Hooks
from vfmalign.features.extraction.threads import open_thread_pool
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import encode, load_case
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state

OPTIONS = ExtractionOptions(batch_size=2, part_cases=3, readers=2)


class Surroundings:
    """Hooks that record; the work stops where `fail_at` or `cancel_at` says, counted in forward passes."""

    def __init__(self, fail_at: int = -1, cancel_at: int = -1):
        self.batches = 0
        self.reports: list[tuple[int, int]] = []
        self.stages = Stages()
        self._fail_at, self._cancel_at = fail_at, cancel_at
        self.hooks = Hooks(self._compute, self.stages, lambda *point: self.reports.append(point), self._cancelled)

    def _compute(self, function):
        if self.batches == self._fail_at:
            raise RuntimeError("killed")
        self.batches += 1
        return function()

    def _cancelled(self) -> bool:
        return self.batches == self._cancel_at


def parts(store, feature_set: str) -> set[str]:
    return {key for key in store.list(features_prefix(feature_set)) if "/part-" in key}


def forget(store, feature_set: str) -> None:
    for key in list(store.list(features_prefix(feature_set))):
        store.delete(key)


def expected_rows(store, dataset, card, layer: str, encoder, transform: str = "identity") -> np.ndarray:
    """Prepared as by a reader, with one of torch's threads: a Fourier transform by several rounds differently."""

    def prepare(case: Case) -> torch.Tensor:
        volumes = load_case(store, case, ("t2w", "dwi", "adc"))
        return prepare_study(volumes, card.preprocessing, transform).input_CDHW

    with open_thread_pool(1, 1, "read") as pool:
        inputs = list(pool.map(prepare, dataset.test))
    return np.stack([extract(encoder, one_CDHW[None], [layer], "mean")[layer][0].numpy() for one_CDHW in inputs])


@pytest.fixture
def request_(card, dataset):
    return ExtractDatasetRequest(model_id=card.id, dataset_id=dataset.id, split="test")


def test_the_order_of_the_layers_makes_no_other_set(store, models, card, request_):
    names = [layer.name for layer in card.layers]
    assert card.primary_layer != names[0], "or the orders below are the same"
    as_in_a_check = (card.primary_layer, *(name for name in names if name != card.primary_layer))
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    for layers in (as_in_a_check, tuple(names), tuple(reversed(names))):
        request = request_.model_copy(update={"layers": layers})
        again = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
        assert (again.feature_set_id, again.computed_cases) == (first.feature_set_id, 0)
    assert first.committed.manifest.request.layers == as_in_a_check, "sets of earlier checks keep their ids"
    forget(store, first.feature_set_id)


def test_rows_are_the_cases_in_the_datasets_order(store, models, card, dataset, request_):
    around = Surroundings()
    result = extract_dataset(store, models, request_, OPTIONS, around.hooks)
    stored = read_feature_set(store, result.feature_set_id)
    assert stored.manifest == result.committed.manifest
    assert stored.manifest.case_ids == tuple(case.id for case in dataset.test)
    assert stored.manifest.case_ids != tuple(sorted(stored.manifest.case_ids))
    assert stored.manifest.groups == tuple(case.group for case in dataset.test)
    assert stored.manifest.request.dataset_digest == dataset.digest()
    assert stored.manifest.request.model_sha256 == card.checkpoint.sha256 == result.checkpoint_sha256
    assert sorted(stored.layers) == sorted(layer.name for layer in card.layers)
    for layer, rows in stored.layers.items():
        expected = expected_rows(store, dataset, card, layer, models.get_by_card(card))
        assert np.array_equal(rows, expected), layer
    assert {"torch", "vfmalign", "monai"} <= set(stored.manifest.software)
    assert result.computed_cases == 7
    assert around.reports == [(0, 7), (3, 7), (6, 7), (7, 7)]
    assert around.batches == 7, "on the CPU none waits for others"
    assert {"load_model", "read", "prepare", "wait_input", "forward", "write", "commit"} == set(around.stages.seconds())


def test_a_mask_outside_of_the_input_normalises_it_where_that_is_allowed(store, models):
    name = "profound_conv_micro"
    how = INPUT.model_copy(update={"normalisation": "zscore_gland"})
    state = random_state(ARCHITECTURES[name], 3)
    publish(store, "by-gland", state, architecture=name, objective="contrastive", preprocessing=how)
    kinds = (*INPUT.modalities, "gland")
    volumes = {kind: store.put(volume_key("cut", "c-6", kind), encode(CASES[6].volumes[kind])) for kind in kinds}
    save_dataset(store, DatasetManifest(id="cut", test=(Case(id="c-6", group="g-6", volumes=volumes),)))
    request = ExtractDatasetRequest(model_id="by-gland", dataset_id="cut", split="test")
    with pytest.raises(BadVolume, match="case c-6: the centre crop contains 40% of the gland"):
        extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    allowed = request.model_copy(update={"allow_cut_organs": True})
    result = extract_dataset(store, models, allowed, OPTIONS, Surroundings().hooks)
    again = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    assert again.committed == result.committed, "the option is no part of the set's id"


def test_what_is_committed_is_not_computed_again(store, models, request_):
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    around = Surroundings(fail_at=0)
    second = extract_dataset(store, models, request_, OPTIONS, around.hooks)
    assert second.committed == first.committed
    assert (second.computed_cases, around.reports) == (0, [(7, 7)])


def truncate(store, key: str) -> None:
    store.put(key, store.get(key)[:-4])


def change_last_byte(store, key: str) -> None:
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


def count_recomputed(kind: str) -> float:
    return metrics.artifacts_recomputed.labels(kind)._value.get()


@pytest.mark.parametrize("part_cases", [3, 2], ids=["same setting", "another setting"])
@pytest.mark.parametrize(
    ("damage", "verify"), [(ObjectStore.delete, False), (truncate, False), (change_last_byte, True)]
)
def test_a_lost_part_is_computed_again_and_the_manifest_stays(store, models, request_, damage, verify, part_cases):
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    expected = read_feature_set(store, first.feature_set_id)
    before = count_recomputed("feature_set_part")
    damage(store, expected.manifest.parts[1].key)
    around = Surroundings()
    options = ExtractionOptions(batch_size=2, part_cases=part_cases, readers=2)
    request = request_.model_copy(update={"verify": verify})
    repaired = extract_dataset(store, models, request, options, around.hooks)
    assert (repaired.computed_cases, repaired.recomputed_parts, around.batches) == (3, 1, 3)
    assert repaired.committed == first.committed
    assert count_recomputed("feature_set_part") == before + 1
    actual = read_feature_set(store, first.feature_set_id, first.committed.sha256)
    assert all(np.array_equal(actual.layers[layer], rows) for layer, rows in expected.layers.items())
    again = extract_dataset(store, models, request, OPTIONS, Surroundings(fail_at=0).hooks)
    assert (again.computed_cases, again.recomputed_parts) == (0, 0)


def test_changed_bytes_are_found_on_request_only(store, models, request_):
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    change_last_byte(store, first.committed.manifest.parts[0].key)
    assert extract_dataset(store, models, request_, OPTIONS, Surroundings(fail_at=0).hooks).computed_cases == 0
    with pytest.raises(DataLoss, match="its SHA-256 is"):
        read_feature_set(store, first.feature_set_id)
    request = request_.model_copy(update={"verify": True})
    assert extract_dataset(store, models, request, OPTIONS, Surroundings().hooks).recomputed_parts == 1
    read_feature_set(store, first.feature_set_id)


def swap_cases(store, key: str) -> None:
    """Leaves a manifest that is valid by itself, with two cases exchanged."""
    manifest = Manifest.model_validate_json(store.get(key))
    cases = (manifest.case_ids[1], manifest.case_ids[0], *manifest.case_ids[2:])
    store.put(key, manifest.model_copy(update={"case_ids": cases}).to_json())


@pytest.mark.parametrize("damage", [ObjectStore.delete, truncate])
def test_a_lost_manifest_is_written_again_from_the_parts(store, models, request_, damage):
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    damage(store, first.committed.key)
    repaired = extract_dataset(store, models, request_, OPTIONS, Surroundings(fail_at=0).hooks)
    assert repaired.committed == first.committed
    assert (repaired.computed_cases, repaired.recomputed_parts) == (0, 0)


def test_a_set_of_other_cases_is_refused_and_never_repaired(store, models, request_):
    """Its parts hold rows without their cases: they may be of either order."""
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    swap_cases(store, first.committed.key)
    with pytest.raises(CaseOrderMismatch, match="order of cases; delete all objects under the prefix of the set"):
        extract_dataset(store, models, request_, OPTIONS, Surroundings(fail_at=0).hooks)
    forget(store, first.feature_set_id)


def test_a_part_whose_bits_differ_replaces_the_manifest_as_a_whole(store, models, request_):
    """As on another processor: readers with the old manifest's digest get an error, not a mix of both versions."""
    first = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    old = read_feature_set(store, first.feature_set_id)
    store.delete(first.committed.manifest.parts[1].key)
    around = Surroundings()

    def compute(function):
        return {layer: tensor * 1.0000001 for layer, tensor in function().items()}

    hooks = Hooks(compute, around.stages, lambda *point: None, lambda: False)
    repaired = extract_dataset(store, models, request_, OPTIONS, hooks)
    assert repaired.recomputed_parts == 1
    assert repaired.committed.sha256 != first.committed.sha256
    parts, old_parts = repaired.committed.manifest.parts, first.committed.manifest.parts
    assert (parts[0], parts[2]) == (old_parts[0], old_parts[2])
    assert parts[1].key != old_parts[1].key
    new = read_feature_set(store, first.feature_set_id, repaired.committed.sha256)
    assert np.allclose(new.layers["stages.3"], old.layers["stages.3"], rtol=1e-5)
    with pytest.raises(DataLoss, match="replaced or damaged"):
        read_feature_set(store, first.feature_set_id, first.committed.sha256)
    forget(store, first.feature_set_id)


def test_an_interrupted_set_continues_with_the_part_it_had_reached(store, models, request_):
    whole = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    expected = read_feature_set(store, whole.feature_set_id)
    forget(store, whole.feature_set_id)

    with pytest.raises(RuntimeError, match="killed"):
        extract_dataset(store, models, request_, OPTIONS, Surroundings(fail_at=4).hooks)
    reached = parts(store, whole.feature_set_id)
    assert len(reached) == 1

    around = Surroundings()
    resumed = extract_dataset(store, models, request_, OPTIONS, around.hooks)
    assert (resumed.computed_cases, around.batches) == (4, 4)
    assert around.reports == [(3, 7), (6, 7), (7, 7)]
    assert reached < parts(store, whole.feature_set_id)
    actual = read_feature_set(store, resumed.feature_set_id)
    assert actual.manifest.parts == expected.manifest.parts
    assert all(np.array_equal(actual.layers[layer], rows) for layer, rows in expected.layers.items())


def test_parts_of_another_size_do_not_disturb(store, models, request_):
    whole = extract_dataset(store, models, request_, OPTIONS, Surroundings().hooks)
    expected = read_feature_set(store, whole.feature_set_id)
    forget(store, whole.feature_set_id)
    with pytest.raises(RuntimeError, match="killed"):
        extract_dataset(store, models, request_, OPTIONS, Surroundings(fail_at=3).hooks)
    other = ExtractionOptions(batch_size=4, part_cases=4, readers=1)
    resumed = extract_dataset(store, models, request_, other, Surroundings().hooks)
    actual = read_feature_set(store, resumed.feature_set_id)
    assert all(np.array_equal(actual.layers[layer], rows) for layer, rows in expected.layers.items())


def test_cancelling_stops_between_batches_and_keeps_the_parts(store, models, request_):
    request = request_.model_copy(update={"layers": ("stages.1",)})
    around = Surroundings(cancel_at=3)
    with pytest.raises(Cancelled, match="the extraction was cancelled"):
        extract_dataset(store, models, request, OPTIONS, around.hooks)
    assert around.batches == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
    resumed = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    assert resumed.computed_cases == 4


def test_the_input_transform_is_applied_and_named(store, models, card, dataset, request_):
    request = request_.model_copy(update={"input_transform": "half_resolution", "layers": ("stages.3", "pooled")})
    result = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    stored = read_feature_set(store, result.feature_set_id)
    assert stored.manifest.request.input_transform == "half_resolution"
    expected = expected_rows(store, dataset, card, "stages.3", models.get_by_card(card), "half_resolution")
    assert np.array_equal(stored.layers["stages.3"], expected)
    assert stored.layers["pooled"].shape == (7, 128)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_id": "absent"}, NotFound, "absent: no model has this id"),
        ({"checkpoint_sha256": "0" * 64}, DigestMismatch, "small-model: the stored weights have SHA-256"),
        ({"dataset_id": "absent"}, NotFound, "dataset absent: not found"),
        ({"dataset_digest": "0" * 64}, PreconditionFailed, "dataset small: its digest is"),
        ({"split": "train"}, BadDataset, "small: the split train has no cases"),
        ({"layers": ("stages.7",)}, BadOption, r"no layer 'stages\.7'"),
        ({"layers": ("stages.1", "stages.1")}, BadOption, "listed twice"),
        ({"input_transform": "blur"}, BadOption, "unknown input transform 'blur'"),
    ],
)
def test_requests_that_cannot_be_met(store, models, request_, change, error, message):
    with pytest.raises(error, match=message):
        extract_dataset(store, models, request_.model_copy(update=change), OPTIONS, Surroundings().hooks)


def dataset_with(store, name: str, cases: tuple[Case, ...]) -> DatasetManifest:
    result = DatasetManifest(id=name, test=cases)
    save_dataset(store, result)
    return result


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("truncated", None, BadVolume, r"s3://.*/adc\.nii\.gz: truncated"),
        ("gone", b"", DataLoss, r"adc\.nii\.gz: there is no such object; import the dataset again"),
        ("swapped", b"other bytes", DataLoss, r"adc\.nii\.gz: its SHA-256 is .*; import the dataset again"),
    ],
)
def test_a_bad_volume_stops_the_set_and_names_its_object(store, models, dataset, request_, name, data, error, message):
    good = dataset.test[:4]
    bad_key = volume_key(name, "case-bad", "adc")
    content = store.get(dataset.test[4].volumes["adc"].key)
    ref = store.put(bad_key, content[: len(content) // 2] if data is None else content)
    bad = Case(id="case-bad", group="patient-bad", volumes={**dataset.test[4].volumes, "adc": ref})
    made = dataset_with(store, name, (*good, bad))
    if data == b"":
        store.delete(bad_key)
    elif data:
        store.put(bad_key, data)
    around = Surroundings()
    with pytest.raises(error, match=message):
        extract_dataset(store, models, request_.model_copy(update={"dataset_id": made.id}), OPTIONS, around.hooks)
    # What came before the bad case is stored and serves once the dataset is mended.
    assert around.reports == [(0, 5), (3, 5)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


@pytest.mark.parametrize("moment", ["first part", "last part"])
def test_a_set_that_is_extracted_while_a_patient_is_erased_goes_again(
    store, models, upload_case, publish_model, moment
):
    store = store.of_tenant(moment.replace(" ", "-"))
    models = models.of_store(store)
    card = publish_model(store, "net")
    cases = tuple(upload_case(store, "racing", number) for number in range(4))
    save_dataset(store, DatasetManifest(id="racing", test=cases))
    around, receipts = Surroundings(), []

    def erase(done: int, total: int) -> None:
        if done == (1 if moment == "first part" else total):
            request = ErasePatientRequest(erasure_id="e1", group=cases[0].group, models="keep")
            receipts.append(make_erasures(store).erase(request, ""))

    hooks = Hooks(around._compute, around.stages, erase, lambda: False)
    request = ExtractDatasetRequest(model_id=card.id, dataset_id="racing", split="test")
    with pytest.raises(PreconditionFailed) as caught:
        extract_dataset(store, models, request, ExtractionOptions(batch_size=1, part_cases=1, readers=1), hooks)
    assert (caught.value.reason, len(receipts)) == ("DIGEST_MISMATCH", 1)
    assert receipts[0].complete_time
    assert not list(store.list("features/")), "the extraction has removed what it has written since"
    again = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    assert again.committed.manifest.groups == (cases[2].group, cases[3].group)
