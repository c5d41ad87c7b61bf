"""Exact comparison of streams in little memory: the values are those of the whole matrix, and of arrays in memory."""

import numpy as np
import pytest
from bench.noise import GaussianRows
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled, Exhausted
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import out_of_core
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.row_streams import ArrayRows, NpyRows
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.engine.tiles import Layout

TILE = (24, 40)
CENTRED = Affine(np.full(5, 3.0))


def compute_shift(x, y, options, engine, groups_x=(), groups_y=()):
    pair = Sample("x", {"f": x}, tuple(groups_x)), Sample("y", {"f": y}, tuple(groups_y))
    return compare(*pair, None, options, engine).layers[0].raw


class Counted:
    """A stream that counts what is read of it, and the most at once."""

    def __init__(self, stream):
        self._stream = stream
        self.rows, self.channels = stream.rows, stream.channels
        self.read_rows, self.largest = 0, 0

    def read(self, start, stop):
        self.read_rows += stop - start
        self.largest = max(self.largest, stop - start)
        return self._stream.read(start, stop)

    def blocks(self, size):
        raise AssertionError("panels are read by rows")


@pytest.fixture
def samples(rng):
    def draw(n, m, d=5):
        x = rng.normal(size=(n, d)) + 3.0
        return x, (0.5 * x[:m] if n == m else 0.0) + 0.3 + rng.normal(size=(m, d))

    return draw


@pytest.fixture
def tight(monkeypatch):
    """Memory for so many rows at once, whatever the sums need."""
    monkeypatch.setattr(out_of_core, "_MIN_ROWS", 4)

    def memory(layout, channels, rows, kernels=1, precision="float64"):
        fixed = out_of_core._fixed_bytes(layout, kernels, precision, TILE)
        return fixed + rows * out_of_core._row_bytes(channels, layout, precision)

    return memory


def matrix(k, x, y, *, paired):
    if paired:
        return k(x, x) + k(y, y) - k(x, y) - k(y, x)
    pooled = np.concatenate([x, y])
    return k(pooled, pooled)


def gaussian(a, b, sigma=2.0):
    return np.exp(-((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2) / (2 * sigma**2))


def laplacian(a, b, sigma=2.0):
    return np.exp(-np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)) / sigma)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("rows_held", [36, 77, 100_000])
def test_sums_are_those_of_the_whole_matrix(samples, tight, rng, paired, rows_held):
    x, y = samples(130, 130 if paired else 101)
    total = 130 if paired else 231
    group_of = np.arange(total) // 3
    weights = rng.integers(-1, 2, size=(group_of[-1] + 1, 9)).astype(np.int8)
    layout = Layout((130,) if paired else (130, 101), group_of, weights)
    kernels = [KERNELS[name](2.0, 5) for name in ("gaussian", "laplacian")]
    streams = Counted(ArrayRows(x)), Counted(ArrayRows(y))
    found = out_of_core.accumulate(
        *streams, kernels, layout, memory_bytes=tight(layout, 5, rows_held, kernels=2), affine=CENTRED,
        precision="float64", tile_shape=TILE, squares=True,
    )  # fmt: skip
    assert found.plan.panel_rows + found.plan.chunk_rows <= rows_held
    for sums, k in zip(found.sums, (gaussian, laplacian), strict=True):
        whole = matrix(k, x, y, paired=paired)
        blocks = np.split(whole, np.cumsum(layout.block_sizes)[:-1], axis=1)
        np.testing.assert_allclose(sums.rows_NP, np.stack([b.sum(axis=1) for b in blocks], axis=1), rtol=1e-11)
        np.testing.assert_allclose(sums.diagonal_N, np.diag(whole), rtol=1e-11, atol=1e-14)
        same = group_of[:, None] == group_of[None, :]
        np.testing.assert_allclose(sums.within_G, np.bincount(group_of, (whole * same).sum(axis=1)), rtol=1e-10)
        weights_NB = weights[group_of].astype(float)
        np.testing.assert_allclose(sums.quadratic_B, ((whole @ weights_NB) * weights_NB).sum(axis=0), rtol=1e-10)
        pooled = matrix(k, x, y, paired=False)
        wanted = (pooled**2).sum() - len(pooled)
        if paired:  # every pair of pooled rows but x_i with y_i, which is on the diagonal of pairs
            wanted = sum(((k(a, b) ** 2).sum()) for a, b in ((x, x), (y, y), (x, y), (y, x))) - 260
        assert sums.squares == pytest.approx(wanted, rel=1e-9)


def test_rows_are_read_again_once_per_panel_and_never_more_than_a_chunk_at_once(samples, tight):
    x, y = samples(200, 100)
    layout = Layout((200, 100), np.arange(300), np.zeros((300, 0), np.int8))
    streams = Counted(ArrayRows(x)), Counted(ArrayRows(y))
    kernels = [KERNELS["gaussian"](2.0, 5)]
    memory, options = tight(layout, 5, 132), {"affine": CENTRED, "precision": "float64", "tile_shape": TILE}
    found = out_of_core.accumulate(*streams, kernels, layout, memory_bytes=memory, **options)
    panel = found.plan.panel_rows
    assert panel == 100
    assert found.rows_read == 300 + 200 + 100  # three panels: all rows, then those after the first, after the second
    assert streams[0].read_rows + streams[1].read_rows == found.rows_read
    whole = out_of_core.accumulate(*streams, kernels, layout, memory_bytes=2**30, **options)
    assert whole.plan.panel_rows == 300


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("precision", ["exact", "high"])
def test_a_comparison_is_that_of_arrays(samples, tight, monkeypatch, tmp_path, pairing, precision):
    monkeypatch.setattr("vfmalign.mmd.engine.precision.EXACT_FLOP", {"cpu": 0.0})
    x, y = samples(90, 90 if pairing == "paired" else 71)
    groups = [f"g{9 - i // 10}" for i in range(len(x))], [f"h{i // 4:02d}" for i in range(len(y))]
    groups = (groups[0], ()) if pairing == "paired" else groups
    options = make_options(pairing, fixed_sigma=2.0, permutations=99, seed=3, precision=precision)
    np.save(tmp_path / "y.npy", y)
    streams = ArrayRows(x), NpyRows(tmp_path / "y.npy")
    layout = Layout((90,) if pairing == "paired" else (90, 71), np.arange(161), np.zeros((30, 256), np.int8))
    engine = ComputeConfig(memory_bytes=tight(layout, 5, 60), tile_shape=TILE)
    found = compute_shift(*streams, options, engine, groups_x=groups[0], groups_y=groups[1])

    # Groups are numbered in their order here and by their names there, which permutations go by.
    renamed = [tuple(f"{name}{index:03d}" for index in run(labels)) for name, labels in zip("gh", groups, strict=True)]
    pair = Sample("x", {"f": x}, renamed[0]), Sample("y", {"f": y}, renamed[1])
    wanted = compare(*pair, None, options, ComputeConfig(tile_shape=TILE)).layers[0].raw
    assert wanted.precision == ("float64" if precision == "exact" else "float32")
    tolerance = 1e-12 if precision == "exact" else 1e-6
    assert found.mmd2.value == pytest.approx(wanted.mmd2.value, abs=tolerance)
    assert found.mmd2.interval.lower == pytest.approx(wanted.mmd2.interval.lower, abs=tolerance)
    assert found.p_value == wanted.p_value
    assert (found.precision, found.permutations, found.enumerated) == (
        wanted.precision, wanted.permutations, wanted.enumerated,
    )  # fmt: skip
    assert found.error_bound == pytest.approx(wanted.error_bound, rel=0.5)


def run(labels):
    seen = {}
    return [seen.setdefault(label, len(seen)) for label in labels]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_and_the_pooled_median(samples, kernel):
    x, y = samples(60, 45)
    options = make_options("independent", kernel=kernel, bandwidth_rule="pooled_median", permutations=19)
    found = compute_shift(ArrayRows(x), ArrayRows(y), options, ComputeConfig())
    wanted = compare(Sample("x", {"f": x}), Sample("y", {"f": y}), None, options, ComputeConfig()).layers[0].raw
    assert found.sigma == pytest.approx(wanted.sigma, rel=1e-12)
    assert found.mmd2.value == pytest.approx(wanted.mmd2.value, rel=1e-9)
    assert found.p_value == wanted.p_value


def test_the_median_of_many_rows_is_that_of_the_rows_that_arrays_draw():
    x, y = GaussianRows(9000, 3, seed=1), GaussianRows(4000, 3, seed=2)
    arrays = [stream.read(0, stream.rows).numpy() for stream in (x, y)]
    sigmas = []
    for pair in ((x, y), arrays):
        options = make_options("independent", bandwidth_rule="pooled_median", estimator="random_fourier")
        sigmas.append(compute_shift(*pair, options, ComputeConfig()).sigma)
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-12)


def test_layers_are_raw_and_standardised_and_share_their_test(samples, tight, rng):
    x, y = samples(90, 90)
    layers = {"a": (x, y), "b": (rng.normal(size=(90, 5)), rng.normal(size=(90, 5)))}
    reference = Sample("reference", {name: rng.normal(2.0, 3.0, size=(40, 5)) for name in layers})
    options = make_options("paired", permutations=99, aggregated=True)

    def asked(wrap, memory_bytes):
        pair = (Sample(name, {layer: wrap(of[at]) for layer, of in layers.items()}) for at, name in enumerate("xy"))
        return compare(*pair, reference, options, ComputeConfig(memory_bytes=memory_bytes, tile_shape=TILE))

    found, wanted = asked(ArrayRows, 2**22), asked(np.asarray, 2**30)
    assert [layer.layer for layer in found.layers] == ["a", "b"]
    for one, other in zip(found.layers, wanted.layers, strict=True):
        for shift, expected in ((one.raw, other.raw), (one.standardised, other.standardised)):
            assert shift.sigma == expected.sigma
            assert shift.mmd2.value == pytest.approx(expected.mmd2.value, rel=1e-12)
            assert shift.mmd2.interval.upper == pytest.approx(expected.mmd2.interval.upper, rel=1e-12)
            assert (shift.p_value, shift.p_value_max_t) == (expected.p_value, expected.p_value_max_t)
            assert shift.aggregated_p_value == expected.aggregated_p_value


def test_random_fourier_reads_streams_as_it_reads_arrays(samples):
    x, y = samples(300, 300)
    options = make_options(
        "independent", fixed_sigma=2.0, estimator="random_fourier", permutations=19, precision="exact"
    )
    found, wanted = (
        compute_shift(ArrayRows(x), ArrayRows(y), options, ComputeConfig()),
        compute_shift(x, y, options, ComputeConfig()),
    )
    assert found.mmd2.value == pytest.approx(wanted.mmd2.value, rel=1e-12)
    assert found.p_value == wanted.p_value


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_the_work_add_up_to_all_of_it(samples, tight, paired, parts):
    x, y = samples(120, 120 if paired else 80)
    total = 120 if paired else 200
    weights = np.ones((total, 3), np.int8)
    layout = Layout((120,) if paired else (120, 80), np.arange(total), weights)
    kernels = [KERNELS["gaussian"](2.0, 5)]
    options = {"memory_bytes": tight(layout, 5, 70), "precision": "float64", "tile_shape": TILE, "squares": True}
    options["affine"] = CENTRED
    streams = ArrayRows(x), ArrayRows(y)
    whole = out_of_core.accumulate(*streams, kernels, layout, **options)
    each = [out_of_core.accumulate(*streams, kernels, layout, **options, shard=(part, parts)) for part in range(parts)]
    added = each[0].sums[0]
    for one in each[1:]:
        added = added + one.sums[0]
    for field in ("rows_NP", "diagonal_N", "within_G", "quadratic_B", "squares"):
        np.testing.assert_allclose(getattr(added, field), getattr(whole.sums[0], field), rtol=1e-12, atol=1e-12)
    assert len({one.magnitudes.norm for one in each}) == 1
    work = [one.sums[0].rows_NP.sum() for one in each]
    assert max(work) < 2.5 * sum(work) / parts or parts == 7


def test_too_little_memory_is_refused_before_anything_is_read_and_the_size_that_fits_fits(samples):
    x, y = samples(500, 400)
    streams = Counted(ArrayRows(x)), Counted(ArrayRows(y))
    options = make_options("independent", fixed_sigma=2.0, permutations=1000)
    with pytest.raises(Exhausted, match=r"two blocks of 64 rows.*allow (\d+) MiB") as caught:
        compute_shift(*streams, options, ComputeConfig(memory_bytes=2**20))
    assert streams[0].read_rows + streams[1].read_rows == 0
    assert (caught.value.reason, caught.value.retry_after_s) == ("TOO_LARGE", None)
    mib = int(caught.value.remedy.split()[1])
    assert compute_shift(*streams, options, ComputeConfig(memory_bytes=mib * 2**20)).mmd2.value is not None
    with pytest.raises(Exhausted):
        compute_shift(*streams, options, ComputeConfig(memory_bytes=(mib - 1) * 2**20))


def test_what_does_not_go_with_streams_is_refused_by_name(samples):
    x, y = (ArrayRows(part) for part in samples(40, 40))
    for options, field in (
        ({"projection": True}, "projection"),
        ({"fixed_sigma": 0.0}, "kernel"),
        ({"kernel": "no such"}, "kernel.family"),
        ({"estimator": "unbiased_independent"}, "estimator"),
    ):
        with pytest.raises(BadOption) as caught:
            compute_shift(x, y, make_options(**({"pairing": "paired", "fixed_sigma": 1.0} | options)), ComputeConfig())
        assert caught.value.field == field
    with pytest.raises(BadOption, match="rows of a group of `x` are not contiguous"):
        compute_shift(
            x,
            y,
            make_options("paired", fixed_sigma=1.0),
            ComputeConfig(),
            groups_x=[str(i % 20) for i in range(40)],
        )
    shared = [str(i) for i in range(40)]
    with pytest.raises(BadOption, match="occur in both samples"):
        compute_shift(
            x, y, make_options("independent", fixed_sigma=1.0), ComputeConfig(), groups_x=shared, groups_y=shared
        )
    with pytest.raises(BadTensor, match="equal row counts"):
        compute_shift(x, ArrayRows(np.zeros((3, 5))), make_options("paired", fixed_sigma=1.0), ComputeConfig())
    with pytest.raises(BadTensor, match="too large for the kernel"):
        compute_shift(
            x, ArrayRows(np.full((40, 5), 1e200)), make_options("independent", fixed_sigma=1.0), ComputeConfig()
        )
    single = compute_shift(
        ArrayRows(np.zeros((1, 2))),
        ArrayRows(np.ones((9, 2))),
        make_options("independent", fixed_sigma=1.0),
        ComputeConfig(),
    )
    assert "at least 2 rows" in single.mmd2.absent_reason


def test_it_stops_between_tiles_when_told_to(samples):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 4:
            raise Cancelled("enough")

    x, y = (ArrayRows(part) for part in samples(200, 200))
    with pytest.raises(Cancelled):
        compute_shift(
            x,
            y,
            make_options("independent", fixed_sigma=1.0),
            ComputeConfig(tile_shape=TILE, context=WorkContext(is_cancelled=stop)),
        )
    assert len(calls) == 4
