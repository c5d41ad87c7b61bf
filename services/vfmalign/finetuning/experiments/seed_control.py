"""The control between seeds: MMD² between the features after two fine-tunings that differ only in their seed.

Both feature sets have the same test cases. The comparison works as for features before and after fine-tuning: the cases
are paired, and the reference determines scale and bandwidth. The features are part of a cell's result, so that cells
from different deployments can be compared.

Legend: the axes of arrays are N cases and C channels.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ComputeOptions
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import LabelledFeatures
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.clients import KERNEL, FeatureSetRef
from vfmalign.finetuning.checks.similarity import value_or_absent

MAX_FEATURE_BYTES = 2 * 2**20
"""Maximum bytes of the features of a cell, before encoding: 700 cases of 768 channels."""
_TYPE = "<f4"


class CellFeatures(Record):
    """Features of the primary layer for the test cases after fine-tuning and for the reference.

    Attributes:
        layer: name of the primary layer.
        channels: C.
        cases, groups: case id and patient id of each row of `after`.
        after, reference: array (N, C) of little-endian float32 numbers, encoded in base64.
    """

    layer: str
    channels: int
    cases: tuple[str, ...]
    groups: tuple[str, ...]
    after: str
    reference: str

    def get_after(self) -> LabelledFeatures:
        """Returns the features after fine-tuning."""
        return LabelledFeatures({self.layer: _decode(self.after, self.channels)}, self.groups, self.cases)

    def get_reference(self) -> LabelledFeatures:
        """Returns the features of the reference."""
        return LabelledFeatures({self.layer: _decode(self.reference, self.channels)})


def read_features(
    store: ObjectStore, layer: str, reference: FeatureSetRef, after: FeatureSetRef
) -> CellFeatures | None:
    """Reads one layer of the feature sets of a check. Returns None if the features are too large for a result.

    Raises:
        NotFound: a feature set does not exist.
        DataLoss: a set is damaged.
    """
    sets = [read_feature_set(store, one.feature_set, one.manifest_sha256) for one in (after, reference)]
    after_NC, reference_NC = (one.layers[layer] for one in sets)
    if after_NC.nbytes + reference_NC.nbytes > MAX_FEATURE_BYTES:
        return None
    return CellFeatures(
        layer=layer,
        channels=after_NC.shape[1],
        cases=sets[0].manifest.case_ids,
        groups=sets[0].manifest.groups,
        after=_encode(after_NC),
        reference=_encode(reference_NC),
    )


async def compare_seeds(
    mmd: AsyncMmdClient, one: CellFeatures | None, other: CellFeatures | None, level: float
) -> Estimate:
    """Compares the features after two fine-tunings of one model for one task.

    Args:
        mmd: client of the service.
        one: features of a cell. The reference in these features determines scale and bandwidth.
        other: features of a cell that differs only in the seed.
        level: nominal coverage of the interval.

    Raises:
        VfmalignError: the MMD service cannot be reached.
    """
    if one is None or other is None:
        return absent("the result of a cell holds no features")

    async def compute() -> Estimate:
        response = await mmd.compute(
            one.get_after(),
            other.get_after(),
            ComputeOptions(
                pairing="paired",
                estimator="unbiased_paired",
                kernel=KERNEL,
                layers=(one.layer,),
                primary_layer=one.layer,
                interval_level=level,
            ),
            reference=one.get_reference(),
        )
        standardised = response.layers[0].standardised
        return absent("the features could not be standardised") if standardised is None else standardised.mmd2

    return await value_or_absent(compute())


def _encode(features_NC: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(features_NC, _TYPE).tobytes()).decode()


def _decode(text: str, channels: int) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), _TYPE).reshape(-1, channels)
