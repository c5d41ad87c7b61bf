"""What a comparison refuses, how it orders layers, how it stops, and the projection."""

from dataclasses import replace

import numpy as np
import pytest
from tests.mmd_options import make_options

from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled, CaseOrderMismatch, Exhausted
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.statistics import similarity

PAIRED = make_options("paired", fixed_sigma=1.0)


def sample(rng, name, rows=10, channels=3, layers=("a", "b"), **labels):
    return Sample(name, {layer: rng.normal(size=(rows, channels)) for layer in layers}, **labels)


def test_swapped_cases_are_refused_by_row(rng):
    cases = tuple(f"case-{i}" for i in range(10))
    swapped = (*cases[:3], cases[4], cases[3], *cases[5:])
    x, y = sample(rng, "x", case_ids=cases), sample(rng, "y", case_ids=swapped)
    with pytest.raises(CaseOrderMismatch, match=r"2 of 10 rows.*first in row 3") as error:
        compare(x, y, None, PAIRED, ComputeConfig())
    assert error.value.subject == "y.case_ids"


def test_differing_groups_are_refused(rng):
    x, y = sample(rng, "x", groups=("p",) * 10), sample(rng, "y", groups=("p",) * 9 + ("q",))
    with pytest.raises(CaseOrderMismatch, match="the group of 1 of 10 rows differs"):
        compare(x, y, None, PAIRED, ComputeConfig())


def test_one_side_may_leave_out_the_groups_of_pairs(rng):
    groups = tuple(f"p{i // 2}" for i in range(20))
    x, y = sample(rng, "x", 20), sample(rng, "y", 20)
    with_x = compare(Sample("x", x.layers, groups), y, None, PAIRED, ComputeConfig())
    with_y = compare(x, Sample("y", y.layers, groups), None, PAIRED, ComputeConfig())
    assert with_x == with_y
    assert with_x.groups == 10


def test_paired_row_counts_must_agree(rng):
    with pytest.raises(BadTensor, match="10 and 9"):
        compare(sample(rng, "x"), sample(rng, "y", rows=9), None, PAIRED, ComputeConfig())


@pytest.mark.parametrize("labels", ["groups", "case_ids"])
def test_independent_samples_may_not_share_a_patient(rng, labels):
    x = sample(rng, "x", **{labels: tuple(f"p{i}" for i in range(10))})
    y = sample(rng, "y", **{labels: tuple(f"p{i}" for i in range(9, 19))})
    with pytest.raises(BadOption, match=r"1 (groups|cases) occur in both samples.*row 9 of `x`"):
        compare(x, y, None, make_options("independent", fixed_sigma=1.0), ComputeConfig())


@pytest.mark.parametrize("wrap", [np.asarray, lambda rows: ArrayRows(rows, "x")], ids=["arrays", "streams"])
@pytest.mark.parametrize(("labels", "what"), [("case_ids", "cases"), ("groups", "groups")])
def test_a_reference_that_shares_cases_or_groups_brings_a_caution(rng, labels, what, wrap):
    names = {"x": range(10), "y": range(10, 20), "reference": range(7, 17)}
    samples = {
        name: Sample(
            name,
            {"a": (np.asarray if name == "reference" else wrap)(rng.normal(size=(10, 3)))},
            **{labels: tuple(f"p{i:02}" for i in numbers)},
        )
        for name, numbers in names.items()
    }
    options = make_options("independent")
    caution = compare(*samples.values(), options, ComputeConfig()).reference_caution
    assert caution.startswith(f"The reference shares {what} with the samples (3 with `x`, 7 with `y`), so that")
    assert "p07" not in caution
    others = replace(samples["reference"], **{labels: tuple(f"t{i}" for i in range(10))})
    for reference in (others, replace(others, **{labels: ()})):
        assert compare(samples["x"], samples["y"], reference, options, ComputeConfig()).reference_caution == ""


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("groups", [(), ("p0", "p1") + ("p2",) * 8], ids=["no groups", "another group"])
def test_rows_of_one_case_must_be_in_one_group(rng, pairing, groups):
    cases = ("c0", "c0", *(f"c{i}" for i in range(2, 10)))
    x, y = sample(rng, "x", case_ids=cases, groups=groups), sample(rng, "y")
    options = make_options(pairing, fixed_sigma=1.0)
    with pytest.raises(BadOption, match=r"row 1 .from 0. repeats the case.*into one group") as error:
        compare(x, y, None, options, ComputeConfig())
    assert error.value.field == "x.case_ids"
    in_one_group = replace(x, groups=("p0", "p0") + ("p2",) * 8)
    compare(in_one_group, y, None, options, ComputeConfig())
    if pairing == "paired":
        compare(replace(x, groups=()), replace(y, groups=in_one_group.groups), None, options, ComputeConfig())


def test_bad_features_are_refused_by_field(rng):
    good = sample(rng, "y")
    nan = rng.normal(size=(10, 3))
    nan[4, 1] = np.nan
    table = [
        ({}, "no layer"),
        ({"a": nan}, "NaN"),
        ({"a": np.zeros((10, 2, 3))}, r"\[rows, channels\], got \[10, 2, 3\]"),
        ({"a": np.zeros((10, 0))}, r"got \[10, 0\]"),
        ({"a": np.zeros((10, 3)), "b": np.zeros((9, 3))}, "9 rows"),
        ({"a": np.zeros((10, 4)), "b": np.zeros((10, 3))}, "4 in `x`, 3 in `y`"),
    ]
    for layers, message in table:
        with pytest.raises(BadTensor, match=message):
            compare(Sample("x", layers), good, None, PAIRED, ComputeConfig())
    with pytest.raises(BadTensor, match="2 groups for 10 rows"):
        compare(Sample("x", good.layers, ("p", "q")), good, None, PAIRED, ComputeConfig())


@pytest.mark.parametrize(
    ("options", "field", "remedy"),
    [
        ({}, "kernel", "send `reference`"),
        ({"bandwidth_rule": "fixed"}, "kernel.fixed_sigma", "set σ in units of the features"),
        ({"fixed_sigma": float("nan")}, "kernel.fixed_sigma", "choose a finite number"),
        ({"kernel": "cosine", "fixed_sigma": 1.0}, "kernel.family", "choose 'gaussian'"),
        ({"interval_level": 1.0}, "interval_level", "choose a value below 1"),
        ({"interval_level": 0.0}, "interval_level", "choose a value above 0"),
        ({"interval_level": float("nan")}, "interval_level", "choose a finite number"),
        ({"permutations": -1}, "test.permutations", "choose a value of at least 0"),
        ({"permutations": 2**31 - 1}, "test.permutations", "choose a value of at most"),
        ({"seed": -1}, "test.seed", "choose a value of at least 0"),
        ({"seed": 2**64}, "test.seed", "choose a value of at most"),
        ({"fixed_sigma": 1.0, "estimator": "random_fourier", "frequencies": 255}, "frequencies", "start with 1,024"),
        ({"frequencies": 2**20 + 1}, "frequencies", "choose a value of at most 1048576"),
        ({"estimator": "linear"}, "estimator", "choose 'biased', 'unbiased_paired', 'unbiased_independent' or"),
        ({"method": "bootstrap"}, "test.method", "choose 'permutation'"),
        ({"fixed_sigma": 1.0, "aggregated": True}, "test.aggregated", "set `test.permutations`"),
        ({"fixed_sigma": 1.0, "method": "wild_bootstrap"}, "test.method", "set `test.permutations`"),
        ({"fixed_sigma": 1.0, "frequencies": 512}, "frequencies", "set `estimator` to `random_fourier`"),
        ({"fixed_sigma": 1.0, "layers": ("a", "c")}, "layers", ""),
        ({"fixed_sigma": 1.0, "primary_layer": "c"}, "primary_layer", ""),
    ],
)
def test_bad_options_are_refused_by_field_with_a_remedy(rng, options, field, remedy):
    x, y = sample(rng, "x"), sample(rng, "y")
    with pytest.raises(BadOption) as error:
        compare(x, y, None, make_options("paired", **options), ComputeConfig())
    assert error.value.field == field
    assert error.value.remedy.startswith(remedy)


def test_primary_layer_comes_first_and_layers_are_those_in_common(rng):
    x, y = sample(rng, "x", layers=("a", "b", "c")), sample(rng, "y", layers=("c", "d", "b"))
    result = compare(x, y, None, PAIRED, ComputeConfig())
    assert [one.layer for one in result.layers] == ["b", "c"]
    result = compare(
        x, y, None, make_options("paired", fixed_sigma=1.0, layers=("b",), primary_layer="c"), ComputeConfig()
    )
    assert [one.layer for one in result.layers] == ["c", "b"]
    assert result.primary_layer == "c"
    with pytest.raises(BadOption, match="no layer in common, such as a in `x`, b, c in `y`"):
        compare(sample(rng, "x", layers=("a",)), sample(rng, "y", layers=("b", "c")), None, PAIRED, ComputeConfig())


def test_it_stops_at_the_next_tile(rng):
    asked = []

    def is_cancelled():
        asked.append(1)
        if len(asked) > 4:
            raise Cancelled("enough")

    engine = ComputeConfig(tile_shape=(10, 10), context=WorkContext(is_cancelled=is_cancelled))
    with pytest.raises(Cancelled):
        compare(sample(rng, "x", 100), sample(rng, "y", 100), None, PAIRED, engine)
    assert len(asked) == 5


def test_too_large_is_refused_with_the_size_that_fits(rng):
    def stop():
        raise Cancelled("it was not refused")

    engine = ComputeConfig(tile_shape=(64, 64), memory_bytes=2**20, context=WorkContext(is_cancelled=stop))
    x, y = sample(rng, "x", 40_000, layers=("a",)), sample(rng, "y", 40_000, layers=("a",))
    biased = make_options("paired", estimator="biased", fixed_sigma=1.0)
    with pytest.raises(Exhausted, match=r"send at most (\d+) rows over all samples") as error:
        compare(x, y, None, biased, engine)
    assert error.value.retry_after_s is None
    half = int(str(error.value).split("send at most ")[1].split()[0]) // 2
    few = [Sample(one.name, {"a": one.layers["a"][:half]}) for one in (x, y)]
    with pytest.raises(Cancelled):
        compare(*few, None, biased, engine)
    more = [Sample(one.name, {"a": one.layers["a"][: half + 1]}) for one in (x, y)]
    with pytest.raises(Exhausted):
        compare(*more, None, biased, engine)


def test_too_many_permutations_are_refused_before_they_are_drawn(rng):
    x, y = sample(rng, "x", 5000, 1, ("a",)), sample(rng, "y", 5000, 1, ("a",))
    with pytest.raises(Exhausted, match="fewer permutations"):
        compare(
            x,
            y,
            None,
            make_options("paired", fixed_sigma=1.0, permutations=100_000),
            ComputeConfig(memory_bytes=2**28),
        )


def test_input_is_left_as_it_was(rng):
    x, y, reference = (sample(rng, name, layers=("a",)) for name in ("x", "y", "reference"))
    before = [one.layers["a"].copy() for one in (x, y, reference)]
    compare(x, y, reference, make_options("paired", permutations=20, projection=True), ComputeConfig())
    for array, one in zip(before, (x, y, reference), strict=True):
        np.testing.assert_array_equal(array, one.layers["a"])


def test_projection_is_the_reference_pca_in_row_order(rng):
    spread = np.array([9.0, 3.0, 1.0])
    reference = Sample("reference", {"a": rng.normal(size=(50, 3)) * spread})
    x = Sample("x", {"a": rng.normal(size=(8, 3)) * spread}, groups=tuple("hgfedcba"))
    y = Sample("y", {"a": x.layers["a"] + 1.0})
    result = compare(x, y, reference, make_options("paired", projection=True), ComputeConfig())
    ref = reference.layers["a"]
    mean, sd = ref.mean(0), ref.std(0, ddof=1)
    _, values, axes = np.linalg.svd((ref - mean) / sd, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(axis=1)])[:, None]
    projection = result.projection
    np.testing.assert_allclose(coordinates(projection.x), ((x.layers["a"] - mean) / sd) @ axes.T, atol=1e-10)
    np.testing.assert_allclose(coordinates(projection.y), ((y.layers["a"] - mean) / sd) @ axes.T, atol=1e-10)
    np.testing.assert_allclose(projection.explained_variance, (values**2 / (values**2).sum())[:2], atol=1e-12)


def coordinates(points):
    return np.array([[point.u, point.v] for point in points])


def test_projection_of_one_row_is_a_point(rng):
    x, y = sample(rng, "x", 1), sample(rng, "y", 1)
    result = compare(x, y, None, make_options("paired", fixed_sigma=1.0, projection=True), ComputeConfig())
    np.testing.assert_array_equal(coordinates(result.projection.x), np.zeros((1, 2)))
    assert result.projection.explained_variance == (0.0, 0.0)


def test_measures_are_taken_of_standardised_features_where_there_is_a_reference(rng):
    x, y, reference = (sample(rng, name, 20, layers=("a",)) for name in ("x", "y", "reference"))
    x_rows, y_rows, fitted = (one.layers["a"] * [1.0, 5.0, 0.1] for one in (x, y, reference))
    samples = [Sample(name, {"a": rows}) for name, rows in (("x", x_rows), ("y", y_rows), ("reference", fitted))]
    options = make_options("paired", fixed_sigma=1.0, measures=("energy", "cka", "frechet"))
    measures = compare(*samples, options, ComputeConfig()).layers[0].measures
    centre, sd = fitted.mean(axis=0), fitted.std(axis=0, ddof=1)
    x_scaled, y_scaled, fitted = ((rows - centre) / sd for rows in (x_rows, y_rows, fitted))
    assert [one.measure for one in measures] == ["energy", "cka", "frechet"]
    found = {one.measure: one.value for one in measures}
    assert found["energy"].value == pytest.approx(similarity.energy(x_scaled, y_scaled, paired=True).value, rel=1e-9)
    assert found["cka"].value == pytest.approx(similarity.cka(x_scaled, y_scaled).value, rel=1e-9)
    assert found["frechet"].value == pytest.approx(similarity.frechet(x_scaled, y_scaled, fitted).value, rel=1e-9)

    independent = options.model_copy(update={"pairing": "independent", "measures": ("energy",)})
    (raw,) = compare(samples[0], samples[1], None, independent, ComputeConfig()).layers[0].measures
    assert raw.value.value == pytest.approx(similarity.energy(x_rows, y_rows).value, rel=1e-9)
    assert compare(samples[0], samples[1], None, PAIRED, ComputeConfig()).layers[0].measures == ()


def test_measures_that_cannot_be_taken_are_refused_or_absent_with_the_reason(rng):
    x, y = sample(rng, "x"), sample(rng, "y")
    with pytest.raises(BadOption, match=r"measures\[0\]: unknown value; choose 'cka', 'frechet' or 'energy'"):
        compare(x, y, None, make_options("paired", fixed_sigma=1.0, measures=("logme",)), ComputeConfig())
    with pytest.raises(BadOption, match="`cka` needs paired samples"):
        compare(x, y, None, make_options("independent", fixed_sigma=1.0, measures=("cka",)), ComputeConfig())
    one_row = Sample("reference", {layer: rows[:1] for layer, rows in x.layers.items()})
    options = make_options("paired", fixed_sigma=1.0, measures=("energy",))
    (found,) = compare(x, y, one_row, options, ComputeConfig()).layers[0].measures
    assert found.value.value is None
    assert "the reference has one row" in found.value.absent_reason


FIRST = ComputeOptions(
    pairing="independent",
    kernel=Kernel(family="gaussian", bandwidth_rule="reference_median"),
    test=TestOptions(permutations=99, seed=1),
    first_groups=30,
)


def test_the_first_groups_are_compared_with_two_thirds_of_x_on_the_scale_of_the_other_third(rng):
    x, y = sample(rng, "x", 60, groups=tuple(f"p{i:02}" for i in range(60))), sample(rng, "y", 50)
    found = compare(x, y, None, FIRST, ComputeConfig())
    third, rest = list(range(0, 60, 3)), [i for i in range(60) if i % 3]

    def take(one, rows, name):
        return Sample(name, {layer: features[rows] for layer, features in one.layers.items()})

    expected = compare(
        take(x, rest, "x"), take(y, list(range(30)), "y"), take(x, third, "reference"),
        FIRST.model_copy(update={"first_groups": 0}), ComputeConfig(),
    )  # fmt: skip
    assert (found.rows_x, found.rows_y) == (40, 30)
    assert found.layers == expected.layers
    assert found.layers[0].standardised.p_value.value is not None


def test_one_row_of_each_group_is_compared(rng):
    x = sample(rng, "x", 40, groups=tuple(f"p{i // 2}" for i in range(40)))
    y = sample(rng, "y", 40, groups=tuple(f"q{i // 4}" for i in range(40)))
    found = compare(x, y, None, FIRST.model_copy(update={"first_groups": 8}), ComputeConfig())
    assert (found.rows_x, found.rows_y, found.groups) == (13, 8, 21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, replace(y, groups=("q",) * 40), None, FIRST), "y has 1 groups, fewer than 30"),
        (lambda x, y: (x, y, replace(x, name="reference"), FIRST), "takes scale and bandwidth from a third of x"),
        (lambda x, y: (x, y, None, FIRST.model_copy(update={"pairing": "paired"})), "from a third of x"),
        (lambda x, y: (x, replace(y, layers={"a": ArrayRows(y.layers["a"], "y")}), None, FIRST), "do not fit into"),
    ],
    ids=["few groups", "a reference", "paired", "streams"],
)
def test_what_does_not_fit_the_first_groups_is_refused(rng, change, message):
    x, y = sample(rng, "x", 60), sample(rng, "y", 40)
    with pytest.raises(BadOption, match=message) as error:
        compare(*change(x, y), ComputeConfig())
    assert (error.value.field, bool(error.value.remedy)) == ("first_groups", True)


def test_labels_that_do_not_fit_are_named_before_groups_are_chosen(rng):
    with pytest.raises(BadTensor, match="3 case_ids for 40 rows"):
        compare(sample(rng, "x", 60), sample(rng, "y", 40, case_ids=("a", "b", "c")), None, FIRST, ComputeConfig())
