"""A reference for monitors of a published model, without extracting a dataset."""

from __future__ import annotations

import uuid

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.store.object_store import ObjectStore

PATIENTS = 70


def store_reference(store: ObjectStore, card: ModelCard, layer: str, center_C: NDArray[np.float32]) -> str:
    """Stores features of a model with noise for each patient as a feature set; returns its id."""
    noise_NC = np.random.default_rng(0).normal(size=(PATIENTS, len(center_C))).astype(np.float32)
    volume = StoredObject(key="volumes/x.nii.gz", sha256="2" * 64)
    cases = tuple(
        Case(id=f"case-{row}", group=f"patient-{row}", volumes=dict.fromkeys(("t2w", "dwi", "adc"), volume))
        for row in range(PATIENTS)
    )
    dataset = DatasetManifest(id=f"d-{uuid.uuid4().hex[:12]}", test=cases)
    save_dataset(store, dataset)
    request = FeatureRequest(
        model_id=card.id,
        model_sha256=card.checkpoint.sha256,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest(),
        split="test",
        layers=(layer,),
        preprocessing=card.preprocessing,
    )
    writer = FeatureSetWriter(store, request, [case.id for case in cases], [case.group for case in cases])
    writer.write_part(0, {layer: center_C + 0.1 * noise_NC})
    writer.commit({"torch": "2"})
    return request.feature_set_id()
