"""`python -m vfmalign.mmd.comparison` with stored feature sets: the numbers of files, also in two processes."""

import json

import numpy as np
import pytest
from tests.unit.mmd.comparison import two_processes

from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest, read_committed
from vfmalign.core.storage.keys import features_prefix
from vfmalign.mmd.comparison import __main__ as comparison
from vfmalign.mmd.comparison import memory_budget

ROWS, PART = 240, 100
PAIRED = ("--pairing", "paired", "--sigma", "5")
OPTIONS = {"test": {"permutations": 40}, "precision": "PRECISION_EXACT"}


def store_set(store, layers, seed):
    request = FeatureRequest(
        model_id="m",
        model_sha256="a" * 64,
        initialisation="random",
        init_seed=seed,
        dataset_id="d",
        dataset_digest="b" * 64,
        split="test",
        layers=tuple(layers),
        preprocessing=Preprocessing(
            modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64)
        ),
    )
    cases = [f"case-{row:04d}" for row in range(ROWS)]
    writer = FeatureSetWriter(store, request, cases, cases)
    for start in range(0, ROWS, PART):
        writer.write_part(start, {name: array[start : start + PART] for name, array in layers.items()})
    writer.commit({"torch": "2"})
    return store.uri(f"{features_prefix(request.feature_set_id())}manifest.json")


@pytest.fixture(scope="module")
def features():
    draw = np.random.default_rng(11)
    return [
        {name: draw.normal(shift, 1.0, (ROWS, 16)).astype(np.float32) for name in ("stages.2", "stages.3")}
        for shift in (0.0, 0.1)
    ]


@pytest.fixture(scope="module")
def sets(store, features):
    return [store_set(store, layers, seed) for seed, layers in enumerate(features)]


def arguments(*places, layer="", **more):
    """A command line; files have one layer, so that they name none."""
    options = OPTIONS | ({"layers": [layer]} if layer else {}) | more
    return [*map(str, places), *PAIRED, "--options", json.dumps(options)]


def raw(text):
    (layer,) = json.loads(text)["layers"]
    return layer["raw"]


@pytest.fixture
def answer(monkeypatch, store_environment, capsys):
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)

    def ask(*places, code=0, **options):
        assert comparison.main(arguments(*places, **options)) == code
        return capsys.readouterr()

    return ask


def test_a_layer_of_stored_sets_gives_the_numbers_of_its_arrays(answer, sets, features, tmp_path, monkeypatch):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    for path, layers in zip(files, features, strict=True):
        np.save(path, layers["stages.3"])
    expected = raw(answer(*files).out)
    assert raw(answer(*sets, layer="stages.3").out) == expected
    assert raw(answer(*sets, layer="stages.2").out) != expected
    ids = [uri.split("/")[-2] for uri in sets]
    assert raw(answer(*ids, layer="stages.3").out) == expected
    # Sets whose layers do not fit together are read one layer after another.
    monkeypatch.setattr(memory_budget, "fits", lambda *_: False)
    assert raw(answer(*sets, layer="stages.3").out) == expected


def test_a_set_whose_manifest_was_edited_is_refused(answer, sets, store):
    identity = sets[0].split("/")[-2]
    committed = read_committed(store, identity)
    version = f"{identity}@{committed.sha256}"
    assert raw(answer(version, sets[1], layer="stages.3").out) == raw(answer(*sets, layer="stages.3").out)
    edited = committed.manifest.model_copy(update={"groups": ("one-patient",) * ROWS})
    store.put(committed.key, edited.to_json())
    try:
        for place in (version, f"{sets[0]}@{committed.sha256}"):
            told = answer(place, sets[1], layer="stages.3", code=comparison.BAD_INPUT).err
            assert f"{committed.sha256} was requested" in told
            assert identity in told
    finally:
        store.put(committed.key, committed.manifest.to_json())


def test_two_processes_as_a_job_starts_them_come_to_the_value_of_one(answer, sets, store_environment, python):
    expected = raw(answer(*sets, layer="stages.3").out)
    outputs = two_processes.compare(python, arguments(*sets, layer="stages.3"), store_environment)
    found = raw(outputs[0])
    assert found["mmd2"]["value"] == pytest.approx(expected["mmd2"]["value"], rel=1e-10)
    assert found["p_value"] == expected["p_value"]
    assert outputs[1] == ""


def test_sets_that_are_not_there_are_said(answer, sets, store):
    absent = store.uri(f"{features_prefix('0' * 32)}manifest.json")
    assert "there is no such feature set" in answer(sets[0], absent, layer="stages.3", code=comparison.BAD_INPUT).err
    other = store.uri("models/m/model.json")
    assert (
        "the URI of a feature set's manifest" in answer(sets[0], other, layer="stages.3", code=comparison.BAD_INPUT).err
    )
    assert "no layer `stages.9`" in answer(*sets, layer="stages.9", code=comparison.BAD_INPUT).err


def test_files_and_sets_do_not_mix(capsys):
    for places, name in ((("s3://b/k", "y.npy"), "x"), (("x.npy", "y"), "y")):
        assert comparison.main(arguments(*places)) == comparison.BAD_INPUT
        error = capsys.readouterr().err
        assert error.startswith(f"error: {name}: is a stored feature set, because its name does not end in .npy")
        assert "all samples must be .npy files" in error
