"""Fixtures: reports of checks with invented numbers."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.prostate import SPECS

from vfmalign.analysis.checks.records import (
    CheckAnalysis,
    CheckReport,
    NaiveBaseline,
    NetworkResult,
    RunRecord,
    SeedAnalysis,
    StageTime,
)
from vfmalign.analysis.checks.seed_variation import summarise_seeds
from vfmalign.analysis.checks.shift import shift_ratio
from vfmalign.analysis.checks.verdict import SCRATCH, decide_verdict
from vfmalign.analysis.convergence.steps import measure_convergence
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import PairedScores
from vfmalign.client.messages.checks import Steps
from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.client.messages.jobs import CurvePoint
from vfmalign.client.messages.mmd import ComputeResponse, LayerResult, Projection, ProjectionPoint, ShiftResult
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.reports.checks import plots as check_plots
from vfmalign.reports.experiments import plots as experiment_plots


@pytest.fixture(scope="module")
def drawings():
    """Figures by what they show: each is drawn once per module, as most pages differ in their tables alone."""
    drawn = {}

    def drawn_once(draw):
        def look_up(*args, **kwargs):
            key = draw, repr((args, kwargs))
            if key not in drawn:
                drawn[key] = draw(*args, **kwargs)
            return drawn[key]

        return look_up

    with pytest.MonkeyPatch.context() as patch:
        for module in (check_plots, experiment_plots):
            for name in [name for name in vars(module) if name.startswith("draw_")]:
                patch.setattr(module, name, drawn_once(getattr(module, name)))
        yield drawn


def _estimate(value, width, degenerate=False):
    interval = Interval(lower=value - width, upper=value + width, level=0.95, method="jackknife", degenerate=degenerate)
    return Estimate(value=value, interval=interval)


def _shift(value, width, p, degenerate=False):
    return ShiftResult(
        mmd2=_estimate(value, width, degenerate), sigma=4.2, p_value=Estimate(value=p),
        p_value_max_t=Estimate(value=2 * p), permutations=4096, enumerated=True, error_bound=1e-9,
        below_error_bound=False,
    )  # fmt: skip


def _comparison(scale, rng):
    names = ["stages.3", "stages.0", "stages.1", "stages.2"]
    values = {"stages.0": -0.0004, "stages.1": 0.004, "stages.2": 0.021, "stages.3": 0.083}
    layers = tuple(
        LayerResult(
            layer=name, channels=128, channels_excluded=0,
            raw=_shift(0.1 * scale * values[name], 0.002, 0.0002, name == "stages.0"),
            standardised=_shift(scale * values[name], 0.012, 0.4 if name == "stages.0" else 0.0002, name == "stages.0"),
        )
        for name in names
    )  # fmt: skip
    before = rng.normal(0, 1, (12, 2))
    after = before + rng.normal([0.8, 0.3], 0.2, (12, 2))
    x, y = (tuple(ProjectionPoint(u=u, v=v) for u, v in rows) for rows in (before, after))
    return ComputeResponse(
        primary_layer="stages.3", estimator="unbiased_paired", rows_x=12, rows_y=12, groups=12, precision="float32",
        layers=layers, projection=Projection(x=x, y=y, explained_variance=(0.42, 0.17)),
    )  # fmt: skip


def _network(name, best, rate, rng):
    scores = [0.02, *(best * (1 - np.exp(-np.arange(1, 11) * rate)) + rng.normal(0, 0.008, 10))]
    points = [
        JobProgress(
            epoch=i, epochs=10, step=12 * i, steps=120, train_loss=1.0 / (i + 1) if i else None,
            validation_score=float(score), elapsed_seconds=3.0 * i,
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip
    to_baseline = Steps(value=120, censored=True) if name == "scratch" else Steps(value=48)
    convergence = measure_convergence(points, higher_is_better=True).model_copy(
        update={"steps_to_baseline": to_baseline}
    )
    return NetworkResult(
        network=name, job_id=f"check-7f3a-{name}", architecture="profound_conv_micro", parameters=1_234_567,
        learning_rate=3e-3, encoder_rate={"pretrained": 0.0625, "scratch": 1.0}.get(name),
        curve=tuple(
            CurvePoint(epoch=p.epoch, step=p.step, train_loss=p.train_loss, validation_score=p.validation_score)
            for p in points
        ),
        convergence=convergence,
        selected_epoch=convergence.best_step // 12, selected_step=convergence.best_step,
        test_means={"lesion_dice": best - 0.03, "gland_dice": 0.81, "false_lesion_volume": None},
        weight_change=None if name == "specialised" else 0.0421,
    )  # fmt: skip


@pytest.fixture
def make_report():
    """Builds a complete report of one training seed with invented numbers."""

    def build(**fields):
        rng = np.random.default_rng(1)
        score, base = rng.normal(0.55, 0.08, 12), rng.normal(0.47, 0.08, 12)
        pairs = PairedScores(score, base, tuple(f"g{i}" for i in range(12)), 1, np.zeros(12, bool))
        low = PairedScores(score, base - 0.4, pairs.groups, 1, pairs.truth_N)
        metrics = SPECS["segmentation"].metrics
        gain, scratch = (estimate_gain(pairs, metrics[0], seed=seed) for seed in (1, 2))
        shift, random = _comparison(1.0, rng), _comparison(6.0, rng)
        values = {
            "check_id": "check-7f3a", "task": "segmentation", "held_out": True, "phantom": False, "leakage_known": True,
            "test_groups": 12,
            "verdict": decide_verdict(gain, metrics[0], held_out=True, seeds=1),
            "pretraining": decide_verdict(scratch, metrics[0], held_out=True, seeds=1, baseline=SCRATCH),
            "metrics": metrics, "primary_metric": "lesion_dice",
            "rpg_specialised": gain, "rpg_scratch": scratch,
            "naive_baseline": NaiveBaseline(
                prediction="each voxel's commonest class", test_means={"lesion_dice": 0.07, "gland_dice": 0.66},
                gain=estimate_gain(low, metrics[0], seed=1),
            ),
            "networks": (
                _network("pretrained", 0.58, 0.5, rng), _network("scratch", 0.45, 0.25, rng),
                _network("specialised", 0.5, 0.35, rng),
            ),
            "shift": shift,
            "shift_ratio": {
                layer.layer: shift_ratio(layer, random.get_layer(layer.layer)) for layer in shift.layers
            },
            "paired_similarity": {
                layer.layer: Estimate(value=0.9 - 0.1 * place) for place, layer in enumerate(shift.layers)
            },
            "shift_by_bandwidth": {"0.5": Estimate(value=0.09), "2": Estimate(value=0.07)},
            "settings": {
                "model_id": "profound-micro", "model_sha256": "ab" * 32, "dataset_id": "prostate-demo",
                "dataset_digest": "cd" * 32, "seed": "7", "input_transform": "identity", "preset": "demo",
            },
        }  # fmt: skip
        result = CheckAnalysis(**(values | fields))
        moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
        run = RunRecord(
            created_at=moment, finished_at=moment,
            stages=(
                StageTime(stage="validate", attempts=1, seconds=0.2),
                StageTime(stage="features_before_test", attempts=2, seconds=4.31),
                StageTime(stage="job_pretrained", attempts=1, seconds=61.0),
                StageTime(stage="mmd", attempts=1, seconds=0.9),
            ),
            job_attempts={"check-7f3a-pretrained": 1}, devices={"training": "cpu", "mmd": "cpu"},
            software={"torch": "2.13.0", "vfmalign": "0.1.0"}, figures={},
        )  # fmt: skip
        return CheckReport(result_digest=result.digest(), result=result, run=run)

    return build


@pytest.fixture
def make_seeds_report(make_report):
    """Builds a report of several training seeds, which are equal to the first but for their number.

    Both answers follow from the gains, unless they are given.
    """

    def build(seeds=3, **fields):
        one = make_report(**fields).result
        trained = tuple(
            SeedAnalysis(
                seed=7 + place, networks=one.networks, rpg_specialised=one.rpg_specialised, rpg_scratch=one.rpg_scratch,
                shift=one.shift, shift_ratio=one.shift_ratio, paired_similarity=one.paired_similarity,
            )
            for place in range(seeds)
        )  # fmt: skip
        rules = {"held_out": one.held_out, "seeds": seeds, "shortest": one.shortened}
        answers = {
            "verdict": decide_verdict(one.rpg_specialised, one.metric, **rules),
            "pretraining": decide_verdict(one.rpg_scratch, one.metric, **rules, baseline=SCRATCH),
        }
        return make_report(**(answers | {"seeds": trained, "seed_variation": summarise_seeds(trained)} | fields))

    return build


@pytest.fixture
def make_png():
    """Builds a small grey PNG."""
    from matplotlib.figure import Figure

    def build(seed=0):
        figure = Figure(figsize=(2.4, 2.4))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(np.random.default_rng(seed).random((32, 32)), cmap="gray")
        axes.axis("off")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    return build
