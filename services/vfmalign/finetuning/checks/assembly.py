"""Computes the results of a check from the artifacts of its stages: gains, shift, convergence and verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vfmalign.analysis.checks.records import (
    CheckAnalysis,
    FeatureShift,
    NaiveBaseline,
    NetworkResult,
    SeedAnalysis,
)
from vfmalign.analysis.checks.seed_variation import summarise_seeds
from vfmalign.analysis.checks.shift import paired_similarity, shift_ratio
from vfmalign.analysis.checks.verdict import SCRATCH, Verdict, decide_verdict
from vfmalign.analysis.convergence.steps import measure_convergence
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.gain import estimate_gain
from vfmalign.analysis.gains.paired_scores import pair_scores, pair_seeds
from vfmalign.client.messages.checks import CheckSpec, Gain
from vfmalign.client.messages.common import Estimate
from vfmalign.client.recipes import find_shortest_budget, get_random_seeds
from vfmalign.core.domain.field_of_view import list_cut
from vfmalign.core.domain.jobs import CaseScore, JobResult, MetricSpec, Network
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.patches import describe_patches
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.scores import aggregate_scores
from vfmalign.core.domain.tasks import CASE_TASKS
from vfmalign.finetuning.checks.similarity import Measures
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.checks.trainings import Training, get_control_seed, name_stage
from vfmalign.finetuning.jobs.converters import to_curve_point
from vfmalign.finetuning.jobs.request import NETWORKS


@dataclass(frozen=True)
class SeedArtifacts:
    """Artifacts of one training seed: the results of its jobs, and the shift of the pretrained network.

    `frozen_random` is the result of frozen random weights, for a check that freezes the encoder.
    """

    jobs: Mapping[Network, JobResult]
    measured: FeatureShift
    frozen_random: JobResult | None = None

    def get_scores(self, network: Network | Literal["naive", "frozen_random"]) -> tuple[CaseScore, ...]:
        """Returns the test scores of a network or of the naive baseline."""
        if network == "naive":
            return self.jobs["pretrained"].naive_baseline_scores
        if network == "frozen_random":
            return () if self.frozen_random is None else self.frozen_random.test_scores
        return self.jobs[network].test_scores


def assemble(
    check_id: str,
    request: CheckSpec,
    valid: Validated,
    trained: Sequence[SeedArtifacts],
    *,
    measures: Measures,
    further_scratch: Sequence[JobResult] = (),
    trials: Mapping[str, float] = MappingProxyType({}),
) -> CheckAnalysis:
    """Computes the results of a check. The results depend only on the artifacts and the seeds of the check.

    Args:
        check_id: the check.
        request: its specification.
        valid: the pinned inputs.
        trained: artifacts of each training seed, in order. At least one seed is needed.
        measures: measures of the first seed.
        further_scratch: additional trainings from random weights.
        trials: best validation score of each trial of a recipe.

    Raises:
        CaseOrderMismatch: the networks were not scored on the same cases.
    """
    seeds = [_analyse_seed(check_id, request, valid, trained, number=place + 1) for place in range(len(trained))]
    first = seeds[0]
    specialised, scratch = first.rpg_specialised, first.rpg_scratch
    if len(seeds) > 1:
        specialised = _gain_over("specialised", trained, request)
        scratch = _gain_over("scratch", trained, request, further_scratch)
    main = trained[0].jobs["pretrained"]
    metrics = set_smallest_differences(main, request)
    metric = next(metric for metric in metrics if metric.name == main.primary_metric)
    shortest = find_shortest_budget(request)
    shortened = shortest if shortest.share < 1 else None
    pretraining = decide_verdict(
        scratch, metric, held_out=valid.held_out, seeds=len(seeds), shortest=shortened, baseline=SCRATCH
    )
    if not pretraining.undecidable and valid.recipes["pretrained"] != valid.recipes["scratch"]:
        reason = f"{pretraining.reason}; `inconclusive`, because the two networks had recipes of their own"
        pretraining = Verdict(label="inconclusive", reason=reason)
    return CheckAnalysis(
        check_id=check_id,
        task=str(request.task),
        held_out=valid.held_out,
        phantom=valid.phantom,
        leakage_known=valid.leakage_known,
        test_groups=valid.test_groups,
        reference_groups=valid.reference_groups,
        verdict=decide_verdict(specialised, metric, held_out=valid.held_out, seeds=len(seeds), shortest=shortened),
        pretraining=pretraining,
        metrics=metrics,
        primary_metric=main.primary_metric,
        rpg_specialised=specialised,
        rpg_scratch=scratch,
        gain_frozen_random=_gain_over("frozen_random", trained, request) if request.frozen else None,
        naive_baseline=_naive_baseline(trained, valid, request),
        networks=first.networks,
        shift=first.shift,
        shift_ratio=first.shift_ratio,
        paired_similarity=first.paired_similarity,
        measures=measures.values,
        shift_by_bandwidth=measures.shift_by_bandwidth,
        seeds=tuple(seeds) if len(seeds) > 1 else (),
        seed_variation=summarise_seeds(seeds) if len(seeds) > 1 else None,
        cut_structures=list_cut(main.inside),
        shortened=shortened,
        mixed_series=valid.mixed_series,
        settings=_settings(request, valid, trained)
        | {f"validation_{trial.removeprefix('job_')}": f"{score:.6g}" for trial, score in trials.items()},
    )


def _analyse_seed(
    check_id: str, request: CheckSpec, valid: Validated, trained: Sequence[SeedArtifacts], *, number: int
) -> SeedAnalysis:
    jobs, measured = trained[number - 1].jobs, trained[number - 1].measured
    return SeedAnalysis(
        seed=request.seed + number - 1,
        rpg_specialised=_gain_over("specialised", trained[number - 1 : number], request),
        rpg_scratch=_gain_over("scratch", trained[number - 1 : number], request),
        networks=tuple(
            _network(Training(name, number), check_id, valid, jobs, of_cases=request.task.name in CASE_TASKS)
            for name in NETWORKS
        ),
        shift=measured.after,
        shift_ratio={
            layer.layer: shift_ratio(layer, measured.reinitialised.get_layer(layer.layer))
            for layer in measured.after.layers
        },
        paired_similarity=_paired_similarities(measured),
    )


def set_smallest_differences(main: JobResult, request: CheckSpec) -> tuple[MetricSpec, ...]:
    """Returns the metrics of a job. A smallest relevant difference in the request applies to the primary metric."""
    if not request.smallest_difference:
        return main.metrics
    requested = {"smallest_difference": request.smallest_difference}
    return tuple(
        metric.model_copy(update=requested) if metric.name == main.primary_metric else metric for metric in main.metrics
    )


def _gain_over(
    baseline: Literal["specialised", "scratch", "naive", "frozen_random"],
    trained: Sequence[SeedArtifacts],
    request: CheckSpec,
    further: Sequence[JobResult] = (),
) -> Gain:
    """Estimates the gain of the pretrained network. The baseline may have `further` trainings."""
    networks = [artifacts.jobs["pretrained"] for artifacts in trained]
    metric = next(metric for metric in networks[0].metrics if metric.name == networks[0].primary_metric)
    scores = [network.test_scores for network in networks]
    baselines = [artifacts.get_scores(baseline) for artifacts in trained] + [result.test_scores for result in further]
    if len(trained) > 1:
        return estimate_crossed_gain(
            pair_seeds(scores, baselines, metric),
            metric,
            level=request.interval_level,
            another_draw=baseline in {"scratch", "frozen_random"},
        )
    return estimate_gain(
        pair_scores(scores[0], baselines[0], metric),
        metric,
        seed=request.seed,
        level=request.interval_level,
        resamples=request.bootstrap_resamples,
    )


def _naive_baseline(trained: Sequence[SeedArtifacts], valid: Validated, request: CheckSpec) -> NaiveBaseline:
    """Returns the scores of the task's naive baseline."""
    main = trained[0].jobs["pretrained"]
    return NaiveBaseline(
        prediction=valid.naive_baseline,
        test_means={metric.name: aggregate_scores(metric, main.naive_baseline_scores) for metric in main.metrics},
        gain=_gain_over("naive", trained, request),
    )


def _paired_similarities(measured: FeatureShift) -> dict[str, Estimate]:
    """Returns the paired similarity of every layer."""
    after = measured.after
    return {
        layer.layer: paired_similarity(layer, measured.biased.get_layer(layer.layer), after.rows_x)
        for layer in after.layers
    }


def _network(
    training: Training, check_id: str, valid: Validated, jobs: Mapping[Network, JobResult], *, of_cases: bool
) -> NetworkResult:
    name = training.network
    result, baseline = jobs[name], jobs["specialised"]
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    specialised = "densenet" if of_cases else "unet"
    return NetworkResult(
        network=name,
        job_id=training.job_id(check_id),
        architecture=specialised if name == "specialised" else valid.card.architecture,
        parameters=result.parameters,
        learning_rate=valid.recipes[name].learning_rate,
        encoder_rate=None if name == "specialised" else valid.recipes[name].encoder_rate,
        # Times are left out: they differ even between equal trainings.
        curve=tuple(to_curve_point(point).model_copy(update={"elapsed_seconds": None}) for point in result.curve),
        convergence=measure_convergence(result.curve, baseline.curve, higher_is_better=metric.higher_is_better),
        selected_epoch=result.selected_epoch,
        selected_step=result.selected_step,
        test_means={metric.name: aggregate_scores(metric, result.test_scores) for metric in result.metrics},
        weight_change=result.weight_change,
    )


def _describe_subsets(trained: Sequence[SeedArtifacts]) -> dict[str, str]:
    """Returns the number of training cases and the digest of their sorted ids, for each seed."""
    settings: dict[str, str] = {}
    for number, artifacts in enumerate(trained, start=1):
        cases = sorted(artifacts.jobs["pretrained"].train_subset)
        settings[name_stage("train_cases", number)] = str(len(cases))
        settings[name_stage("train_cases_sha256", number)] = hashlib.sha256(canonical_json(cases)).hexdigest()
    return settings


def _describe_card(card: ModelCard) -> dict[str, str]:
    """Returns what the card states about the origin of the weights. Absent facts are left out, as by `_settings`.

    Cards of earlier versions state neither licence nor tensors. Their results keep their digests.
    """
    if not card.licence and card.tensors is None:
        return {}
    counts = "" if card.tensors is None else ", ".join(f"{count} {name}" for name, count in card.tensors)
    facts = {"licence": card.licence, "model_source": card.source, "tensors": counts}
    return {name: text for name, text in facts.items() if text}


def _settings(request: CheckSpec, valid: Validated, trained: Sequence[SeedArtifacts]) -> dict[str, str]:
    measured = trained[0].measured
    recipes = {
        f"recipe_{name}": canonical_json(valid.recipes[name].model_dump(mode="json", exclude_none=True)).decode()
        for name in NETWORKS
    }
    encoders: dict[str, str] = {}
    for number, artifacts in enumerate(trained, start=1):
        main = artifacts.jobs["pretrained"]
        encoders |= {
            name_stage("encoder_after", number): main.encoder,
            name_stage("encoder_after_sha256", number): main.encoder_sha256,
        }
        if artifacts.measured.after_id:  # a frozen encoder has the same features as before
            encoders[name_stage("features_after", number)] = artifacts.measured.after_id
    # Left out if there is none, so that results of checks without a map keep their digests.
    pairs = ", ".join(f"{modality}={name}" for modality, name in sorted(request.modality_map.items()))
    return (
        recipes
        | encoders
        | ({"modality_map": pairs} if pairs else {})
        | {
            "model_id": valid.card.id,
            "model_sha256": valid.card.checkpoint.sha256,
            "dataset_id": request.dataset_id,
            "dataset_digest": valid.dataset_digest,
            "task": str(request.task),
            "input_transform": valid.input_transform,
            "layers": ", ".join(valid.layers),
            "primary_layer": valid.primary_layer,
            "features_before": measured.before_id,
            **({"features_random": measured.reinitialised_id} if measured.reinitialised_id else {}),
            "features_reference": measured.reference_id,
            **({"plan_sha256": request.plan.digest()} if request.plan is not None else {}),
            **({"shuffled_labels": "true"} if request.shuffled_labels else {}),
            **({"frozen": "true"} if request.frozen else {}),
            **({"patches": patches} if (patches := describe_patches(valid.card.preprocessing)) else {}),
            **({"random_weights": str(get_control_seed(request))} if request.random_weights else {}),
            **({"allow_cut_organs": "true"} if request.allow_cut_organs else {}),
            **(_describe_subsets(trained) if request.train_cases else {}),
            **_describe_card(valid.card),
            "seed": str(request.seed),
            "seeds": str(request.seeds),
            "random_seeds": str(get_random_seeds(request)),
            "permutations": str(request.permutations),
            "bootstrap_resamples": str(request.bootstrap_resamples),
            "interval_level": f"{request.interval_level:g}",
        }
    )
