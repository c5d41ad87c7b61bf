"""Fixtures: cells and reports of experiments with invented numbers."""

import numpy as np
import pytest
from tests.prostate import SPECS

from vfmalign.analysis.checks.verdict import SCRATCH, decide_verdict
from vfmalign.analysis.convergence.steps import measure_convergence
from vfmalign.analysis.experiments.cells import Cell, Flags, MissingCell
from vfmalign.analysis.experiments.report import analyse_cells
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import pair_scores
from vfmalign.client.messages.checks import Curve, Steps
from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.client.messages.jobs import CurvePoint
from vfmalign.core.domain.jobs import CaseScore, JobProgress
from vfmalign.reports.experiments.page import render

MODELS = {
    "profound-tiny-mae": ("profound_conv_micro", "masked_reconstruction"),
    "profound-tiny-contrastive": ("profound_conv_micro", "contrastive"),
    "provicnet-small": ("provicnet_t2w", "contrastive"),
    "profound-vit": ("profound_vit_base", "masked_reconstruction"),
    "unit-5": ("profound_vit_base", "supervised"),
    "unit-6": ("profound_vit_base", "random"),
}
LEVEL = {"segmentation": 0.45, "super_resolution": 29.0, "distortion": 26.0, "translation": 22.0, "classification": 0.7}


def _curve(rng, level, best, rate, budget):
    start = 0.1 * level if level < 1 else 0.7 * level
    steps = np.arange(0, 11) * budget // 10
    scores = start + (best - start) * (1 - np.exp(-rate * steps / budget)) + rng.normal(0, 0.004 * level, 11)
    return [
        JobProgress(
            epoch=i,
            epochs=10,
            step=int(s),
            steps=budget,
            train_loss=1.0 if i else None,
            validation_score=float(v),
            elapsed_seconds=i,
        )
        for i, (s, v) in enumerate(zip(steps, scores, strict=True))
    ]


def _cases(rng, of_scratch, metric, level, patients, boost):
    """Scores of every network; those from random weights take numbers of their own, so that all others stay."""
    base = rng.normal(level, 0.12 * level, patients)
    scores = {}
    for network, more, random in (("pretrained", boost, rng), ("specialised", 0.0, rng), ("scratch", -0.2, of_scratch)):
        value = base + more * level + random.normal(0, 0.03 * level, patients)
        if metric.of_set != "mean":
            value = np.clip(
                0.5 + 0.8 * more + random.normal(0, 0.2, patients) + np.where(np.arange(patients) % 2, 0.2, -0.2), 0, 1
            )
        scores[network] = tuple(
            CaseScore(
                case=f"case-{i:03}", group=f"g-{i:03}", values={metric.name: float(v)},
                positive=bool(i % 2) if metric.of_set != "mean" else None,
            )
            for i, v in enumerate(value)
        )  # fmt: skip
    return scores


def _cell(model, task, seed, *, place, models, noise, patients, phantom):
    """`place` of the model: the higher, the more its features move and the less it gains, up to `noise`."""
    rng, of_variants, of_scratch = (
        np.random.default_rng([stable_hash(model), stable_hash(task), seed, *stream]) for stream in ((), (1,), (2,))
    )
    metric = SPECS[task].primary_metric
    level = LEVEL[task]
    shift = 0.02 + 0.05 * place + abs(rng.normal(0, 0.004))
    boost = 0.25 - 0.4 * place / models + rng.normal(0, noise)
    scores = _cases(rng, of_scratch, metric, level, patients, boost)
    gain, scratch = (
        estimate_gain(pair_scores(scores["pretrained"], scores[name], metric), metric, seed=1, resamples=200)
        for name in ("specialised", "scratch")
    )
    curves = {
        name: _curve(rng, level, level * (1 + more), rate, 120)
        for name, more, rate in (
            ("pretrained", boost, 12 - 9 * place / models + rng.normal(0, 10 * noise)),
            ("scratch", -0.2, 4),
            ("specialised", 0, 6),
        )
    }  # fmt: skip
    convergence = measure_convergence(curves["pretrained"], higher_is_better=True)
    se = 0.006
    architecture, objective = MODELS[model]
    return Cell(
        model_id=model, task=task, seed=seed, check_id=f"experiment-{model}-{task}-{seed}", architecture=architecture,
        objective=objective, phantom=phantom, leakage_known=True,
        flags=Flags(not_beaten=boost < -0.04, saturated=False, degenerate=shift < 0.03),
        naive_baseline="the input", metric=metric, layer="stages.3", patients=patients,
        shift=Estimate(
            value=shift,
            interval=Interval(
                lower=shift - 2.2 * se, upper=shift + 2.2 * se, level=0.95, method="jackknife", degenerate=shift < 0.03
            ),
        ),
        shift_se=se, shift_ratio=Estimate(value=shift / 0.6), gain=gain.relative_percent, gain_difference=gain.absolute,
        gain_scratch=scratch.relative_percent, scratch_difference=scratch.absolute,
        verdict=decide_verdict(gain, metric, held_out=True, seeds=1),
        pretraining=decide_verdict(scratch, metric, held_out=True, seeds=1, baseline=SCRATCH),
        score=gain.score, baseline=gain.baseline,
        steps_to_95=convergence.steps_to_95,
        budget=120, weight_change=0.02 + 0.03 * place + abs(rng.normal(0, 0.01)),
        measures={
            "cka": Estimate(value=float(np.clip(0.95 - 0.1 * place + rng.normal(0, 0.04), 0, 1))),
            "frechet": Estimate(value=2 + 3 * place + rng.normal(0, 1.0)),
            "energy": Estimate(value=0.1 + 0.2 * place + rng.normal(0, 0.04)),
            "logme": Estimate(value=-0.4 + 0.1 * boost) if task == "classification" else absent("no case labels"),
            "h_score": Estimate(value=0.4 + 0.1 * boost) if task == "classification" else absent("no case labels"),
        },
        shift_variants=_variants(shift, of_variants),
        curves=tuple(
            Curve(
                network=name,
                points=tuple(
                    CurvePoint(epoch=p.epoch, step=p.step, train_loss=p.train_loss, validation_score=p.validation_score)
                    for p in curve
                ),
                selected_step=max(curve, key=lambda p: p.validation_score).step,
            )
            for name, curve in curves.items()
        ),
        scores=scores,
    )  # fmt: skip


def _variants(shift, rng):
    """Shifts that rank like the main one, except for raw features, which are unrelated to it."""
    variants = {
        name: Estimate(value=factor * shift)
        for name, factor in (
            ("first_layer", 0.5), ("middle_layer", 0.7), ("last_layer", 1.0), ("half_bandwidth", 1.4),
            ("double_bandwidth", 0.4), ("without_top_channels", 0.9),
        )
    }  # fmt: skip
    return variants | {"raw": Estimate(value=rng.uniform(0, 0.3))}


def stable_hash(text):
    """A hash that does not differ between processes."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 2**31


@pytest.fixture(scope="session")
def make_cells():
    """Builds cells of the first models × tasks × seeds; without `noise` the more features move, the less is gained."""

    def build(models=4, tasks=5, seeds=1, *, noise=0.05, patients=16, phantom=False):
        fields = {"models": models, "noise": noise, "patients": patients, "phantom": phantom}
        return [
            _cell(model, task, seed, place=place, **fields)
            for place, model in enumerate(list(MODELS)[:models])
            for task in list(LEVEL)[:tasks]
            for seed in range(1, seeds + 1)
        ]

    return build


def with_counts(cells):
    """Adds to each cell two cells with 8 and 16 training cases, or one more with an odd seed, and lower scores."""

    def reduce(cell, count):
        scores = {
            network: tuple(
                one.model_copy(update={"values": {name: value - 1 / count for name, value in one.values.items()}})
                for one in cases
            )
            for network, cases in cell.scores.items()
        }
        subset = {"train_cases": count, "subset_size": count + cell.seed % 2, "subset_sha256": "a" * 64}
        return cell.model_copy(update={"scores": scores, "check_id": f"{cell.check_id}-n{count}", **subset})

    return [*cells, *(reduce(cell, count) for cell in cells for count in (8, 16))]


@pytest.fixture(scope="session")
def with_numbers():
    """Changes a cell's shift, gain and share of steps to given ones; None is absent, a share of `inf` censored."""

    def build(cell, shift=0.1, gain=1.0, share=0.5):
        steps = Steps(absent_reason="within noise") if share is None else Steps(value=cell.budget, censored=True)
        if share is not None and np.isfinite(share):
            steps = Steps(value=round(share * cell.budget))
        return cell.model_copy(
            update={
                "shift": absent("no shift") if shift is None else Estimate(value=shift),
                "shift_ratio": absent("no ratio") if shift is None else Estimate(value=2 * shift),
                "gain": absent("under the floor") if gain is None else Estimate(value=gain),
                "steps_to_95": steps,
            }
        )

    return build


@pytest.fixture(scope="session")
def missing():
    """A cell without numbers."""
    return MissingCell(
        model_id="provicnet-small",
        task="distortion",
        seed=9,
        check_id="c-9",
        reason="exit code 3: bad data, " + "x" * 200,
    )


@pytest.fixture(scope="session")
def small(make_cells, missing):
    """A rehearsal of three models and one seed."""
    return analyse_cells(
        "s-1", "Two families, five tasks", make_cells(3, 5, phantom=True), [missing], seed=1, level=0.95
    )


@pytest.fixture(scope="session")
def large(make_cells):
    """Five models and two seeds."""
    return analyse_cells("s-2", "Five models", make_cells(5, 5, 2), [], seed=1, level=0.95)


@pytest.fixture(scope="session")
def labels(make_cells):
    """Three models with three seeds and three numbers of training cases."""
    cells = with_counts(make_cells(3, 2, 3, noise=0.2))
    return analyse_cells("s-3", "Few cases", cells, [], seed=1, level=0.95, train_cases=(8, 16, 0), train_size=40)


@pytest.fixture(scope="session")
def pages(small, large, labels):
    """All as HTML."""
    return {name: render(one).decode() for name, one in (("small", small), ("large", large), ("labels", labels))}
