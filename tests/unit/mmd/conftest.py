"""Slow, plain float64 formulas that the tests of the MMD engine compare with."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from tests.mmd_options import make_options

from vfmalign.mmd.comparison import layer_pass
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig


def gram(a, b, sigma):
    distances = ((a[:, None, :].astype(np.float64) - b[None, :, :].astype(np.float64)) ** 2).sum(axis=2)
    return np.exp(-distances / (2.0 * sigma**2))


def biased(x, y, sigma):
    return gram(x, x, sigma).mean() + gram(y, y, sigma).mean() - 2.0 * gram(x, y, sigma).mean()


def unbiased_paired(x, y, sigma):
    h = gram(x, x, sigma) + gram(y, y, sigma) - gram(x, y, sigma) - gram(y, x, sigma)
    n = len(x)
    return h[~np.eye(n, dtype=bool)].sum() / (n * (n - 1))


def unbiased_independent(x, y, sigma):
    n, m = len(x), len(y)
    within_x = gram(x, x, sigma)[~np.eye(n, dtype=bool)].sum() / (n * (n - 1))
    within_y = gram(y, y, sigma)[~np.eye(m, dtype=bool)].sum() / (m * (m - 1))
    return within_x + within_y - 2.0 * gram(x, y, sigma).mean()


def standardise(reference, *parts):
    """Parts centred and scaled by a reference without constant channels: by its SD, at least 0.1 of the median SD."""
    sd = reference.std(0, ddof=1)
    scale = np.maximum(sd, 0.1 * np.median(sd))
    return [(part - reference.mean(0)) / scale for part in parts]


def median_distance(rows):
    return np.median(pdist(rows))


ESTIMATORS = {
    "biased": biased,
    "unbiased_paired": unbiased_paired,
    "unbiased_independent": unbiased_independent,
}


def compare_arrays(x, y, *, groups_x=(), groups_y=(), tile_rows=None, forced=None, reference=None, **options):
    """One layer without ceremony; `forced` computes in that precision only, whatever becomes of the digits."""
    if forced is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer_pass.precision, "choose", lambda *_, **__: forced)
            patch.setattr(layer_pass.precision, "SAFE_MULTIPLE_OF_BOUND", 0.0)
            return compare_arrays(
                x, y, groups_x=groups_x, groups_y=groups_y, tile_rows=tile_rows, reference=reference, **options
            )
    options.setdefault("pairing", "paired")
    if reference is None:
        options.setdefault("fixed_sigma", 1.5)
    else:
        reference = Sample("reference", {"features": reference})
    result = compare(
        Sample("x", {"features": x}, tuple(groups_x)),
        Sample("y", {"features": y}, tuple(groups_y)),
        reference,
        make_options(**options),
        ComputeConfig(tile_shape=tile_rows and (tile_rows, 2 * tile_rows)),
    )
    return result.layers[0]


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture
def brute():
    return SimpleNamespace(
        gram=gram, estimators=ESTIMATORS, compare=compare_arrays, standardise=standardise, median=median_distance
    )


@pytest.fixture
def grouped():
    """Rows of uneven groups in a shuffled order: labels for `rows` rows."""

    def labels(rng, rows, groups, prefix="g"):
        cuts = np.sort(rng.choice(np.arange(1, rows), groups - 1, replace=False))
        sizes = [b - a for a, b in pairwise([0, *cuts, rows])]
        return rng.permutation(np.repeat([f"{prefix}{i:03d}" for i in range(groups)], sizes))

    return labels
