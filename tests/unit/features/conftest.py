"""A small published model and a dataset of small random studies on a real S3 server."""

import numpy as np
import pytest
import torch

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import volume_key
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.imaging.volumes import Volume, encode
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state

ARCHITECTURE = "profound_conv_micro"
SMALL_INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.5, 1.5), shape_dhw=(16, 32, 32))
CASES = 7


def small_volume(seed: int) -> Volume:
    array_XYZ = np.random.default_rng(seed).integers(1, 900, (24, 24, 6)).astype(np.float32)
    return Volume(array_XYZ, np.diag([2.0, 2.0, 3.0, 1.0]))


def upload_case(store, dataset: str, number: int) -> Case:
    case = f"case-{number:04d}"
    volumes = {
        kind: store.put(volume_key(dataset, case, kind), encode(small_volume(10 * number + i)))
        for i, kind in enumerate(("t2w", "dwi", "adc"))
    }
    return Case(id=case, group=f"patient-{number // 2:04d}", volumes=volumes)


def publish_model(store, model_id: str, seed: int = 0):
    state = random_state(ARCHITECTURES[ARCHITECTURE], seed)
    # Away from the initial weights, where GRN and residual branches hardly count.
    generator = torch.Generator().manual_seed(seed)
    state = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in state.items()}
    return publish(
        store, model_id, state, architecture=ARCHITECTURE, objective="contrastive", preprocessing=SMALL_INPUT
    )


@pytest.fixture(scope="module")
def card(store):
    return publish_model(store, "small-model")


@pytest.fixture(scope="module")
def dataset(store):
    # Not in the order of their ids: rows follow the dataset.
    cases = tuple(upload_case(store, "small", number) for number in (3, 0, 6, 1, 5, 2, 4))
    result = DatasetManifest(id="small", test=cases, val=(upload_case(store, "small", 20),))
    save_dataset(store, result)
    return result


@pytest.fixture
def models(store):
    return ModelCache(store, torch.device("cpu"), 2**30)


@pytest.fixture(scope="session", name="publish_model")
def publish_model_fixture():
    return publish_model


@pytest.fixture(scope="session", name="small_volume")
def small_volume_fixture():
    return small_volume


@pytest.fixture(scope="session", name="upload_case")
def upload_case_fixture():
    return upload_case
