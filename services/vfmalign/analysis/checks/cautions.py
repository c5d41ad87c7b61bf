"""Cautions about a check: reasons why its numbers may mislead. Read them before the numbers."""

from __future__ import annotations

from collections.abc import Callable

from vfmalign.analysis.checks.records import CheckAnalysis
from vfmalign.analysis.checks.shift import is_saturated
from vfmalign.client.messages.mmd import ExcludedMovement, LayerResult, TopChannels
from vfmalign.client.recipes import MIN_SHARE
from vfmalign.core.domain.field_of_view import CAUTION_BELOW, count_cases, describe_cut, format_share
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_GROUPS, MIN_WITHOUT_CAUTION, describe_unseen_subgroup
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.documents import pluralise


class Caution(Record):
    """Reason why the numbers of a check may mislead. A report shows each caution before the numbers."""

    title: str
    text: str


def list_cautions(result: CheckAnalysis) -> tuple[Caution, ...]:
    """Lists the cautions that apply to a check."""
    cautions = [
        _caution_about_splits(result),
        _caution_about_phantoms(result),
        _caution_about_shortened_training(result),
        _caution_about_shuffled_labels(result),
        _caution_about_train_cases(result),
        _caution_about_random_weights(result),
        _caution_about_frozen_encoder(result),
        _caution_about_patches(result),
        _caution_about_recipes(result),
        _caution_about_cut_organs(result),
        _caution_about_mixed_series(result),
        _caution_about_reference(result),
        _caution_about_saturation(result),
        _caution_about_top_channels(result),
        _caution_about_excluded_channels(result),
        _caution_about_naive_baseline(result),
        _caution_about_pretraining(result),
        _caution_about_budgets(result),
        _caution_about_few_patients(result),
    ]
    return tuple(caution for caution in cautions if caution is not None)


def _caution_about_splits(result: CheckAnalysis) -> Caution | None:
    if result.held_out:
        return None
    return Caution(
        title="Not held out",
        text="The same case is in several splits. The numbers describe this run only and do not predict the "
        "performance on new cases.",
    )


def _caution_about_phantoms(result: CheckAnalysis) -> Caution | None:
    if not result.phantom:
        return None
    return Caution(
        title="Phantom rehearsal",
        text="The cases are generated and do not come from patients. The numbers show that the procedure runs, but "
        "they do not show how useful a model is in a clinic.",
    )


def _caution_about_shortened_training(result: CheckAnalysis) -> Caution | None:
    if (shortened := result.shortened) is None:
        return None
    return Caution(
        title="Shortened training",
        text=f"The {shortened.network} network was trained for {shortened}. With the full number of steps, gain "
        f"and shift may differ in size and sign. Below {100 * MIN_SHARE:g} % of the steps, there is no verdict.",
    )


def _caution_about_shuffled_labels(result: CheckAnalysis) -> Caution | None:
    if "shuffled_labels" not in result.settings:
        return None
    return Caution(
        title="Control",
        text="The pretrained network was fine-tuned on targets of other cases, so it cannot learn the task. Its shift "
        "is not due to the task, and its gain has no meaning.",
    )


def _caution_about_train_cases(result: CheckAnalysis) -> Caution | None:
    if "train_cases" not in result.settings:
        return None
    return Caution(
        title="Few training cases",
        text=f"All networks were trained on a subset of {result.settings['train_cases']} cases of `train`. The check "
        "belongs to an experiment on the number of training cases.",
    )


def _caution_about_random_weights(result: CheckAnalysis) -> Caution | None:
    if "random_weights" not in result.settings:
        return None
    return Caution(
        title="Control",
        text="In place of the model's weights, random weights were fine-tuned. A `gain` from pretraining would "
        "therefore be an error. In simulations, 1 to 4 % of such controls show this error.",
    )


def _caution_about_frozen_encoder(result: CheckAnalysis) -> Caution | None:
    if not result.frozen:
        return None
    return Caution(
        title="Frozen encoder",
        text="Only the head of the pretrained network was trained. The specialised network and the network without "
        "pretraining were trained as a whole. Fine-tuning the model as a whole may give another score.",
    )


def _caution_about_patches(result: CheckAnalysis) -> Caution | None:
    if "patches" not in result.settings:
        return None
    return Caution(
        title="Patches",
        text=f"The networks read each case in patches: {result.settings['patches']}. They were trained on random "
        "patches. A feature is the mean over the patches of a case, so it contains nothing larger than a patch.",
    )


def _caution_about_recipes(result: CheckAnalysis) -> Caution | None:
    if result.settings.get("recipe_pretrained") == result.settings.get("recipe_scratch"):
        return None
    return Caution(
        title="Different recipes",
        text="The model and the network from random weights were trained with different recipes. The difference "
        "between their scores may be due to the recipe and not to pretraining.",
    )


def _caution_about_cut_organs(result: CheckAnalysis) -> Caution | None:
    if not (cut := result.cut_structures):
        return None
    tested = count_cases(one for one in cut if one.split == "test")
    return Caution(
        title="Organs cut off",
        text=f"Less than {format_share(CAUTION_BELOW)} of a structure lies in the model's field of view in "
        f"{pluralise(count_cases(cut), 'case')}, {tested} of them in test: {describe_cut(cut)}. The model does not see "
        "the rest, and the scores of a segmentation count it as missed.",
    )


def _caution_about_mixed_series(result: CheckAnalysis) -> Caution | None:
    if not result.mixed_series:
        return None
    return Caution(
        title="Mixed diffusion weightings",
        text=f"The cases do not have the same images: {'; '.join(result.mixed_series)}. The "
        "differences in contrast may be the cause of gain and shift.",
    )


def _caution_about_reference(result: CheckAnalysis) -> Caution | None:
    if result.frozen or result.reference_groups is None or result.reference_groups >= MIN_GROUPS:
        return None
    return Caution(
        title="Few training patients",
        text=f"The scale of the channels and the bandwidth of MMD² are estimated from "
        f"{pluralise(result.reference_groups, 'training patient')}, fewer than {MIN_GROUPS}. With other "
        "training patients, MMD² could be very different.",
    )


def _caution_about_saturation(result: CheckAnalysis) -> Caution | None:
    layers = [layer.layer for layer in result.shift.layers if _is_saturated(result, layer.layer)]
    if not layers:
        return None
    return Caution(
        title="Saturated shift",
        text=f"In {', '.join(layers)} MMD² is saturated: the features after fine-tuning are so far from those before "
        "that MMD² no longer grows with distance. Such an MMD² shows that the features moved far, but not how "
        "far. Do not rank models or checks by it.",
    )


def _caution_about_top_channels(result: CheckAnalysis) -> Caution | None:
    return _join_layer_cautions(result, "Few channels dominate the shift", lambda layer: layer.top_channels)


def _caution_about_excluded_channels(result: CheckAnalysis) -> Caution | None:
    title = "Channels that move are left out of the shift"
    return _join_layer_cautions(result, title, lambda layer: layer.excluded_movement)


def _join_layer_cautions(
    result: CheckAnalysis, title: str, get_part: Callable[[LayerResult], TopChannels | ExcludedMovement | None]
) -> Caution | None:
    """Joins the cautions of all layers about one part of their results."""
    cautions: dict[str, str] = {}  # by layer, from the first seed with a caution
    for shift in [seed.shift for seed in result.seeds] or [result.shift]:
        for layer in shift.layers:
            if (part := get_part(layer)) is not None and part.caution:
                cautions.setdefault(layer.layer, part.caution)
    if not cautions:
        return None
    return Caution(title=title, text=" ".join(f"{layer}: {caution}" for layer, caution in cautions.items()))


def _is_saturated(result: CheckAnalysis, layer: str) -> bool:
    """Whether MMD² of a layer is saturated with any seed."""
    seeds = [seed.paired_similarity[layer] for seed in result.seeds]
    return any(is_saturated(similarity) for similarity in (result.paired_similarity[layer], *seeds))


def _caution_about_naive_baseline(result: CheckAnalysis) -> Caution | None:
    baseline = result.naive_baseline
    if not baseline.not_beaten:
        return None
    return Caution(
        title="Naive baseline not beaten",
        text=f"On the test cases, the {result.metric.title} of the fine-tuned model is not better "
        f"than that of the naive baseline ({baseline.prediction}). Even if it beats other networks, it has not "
        "learned the task.",
    )


def _caution_about_pretraining(result: CheckAnalysis) -> Caution | None:
    if result.leakage_known:
        return None
    return Caution(
        title="Pretraining set unknown",
        text="The model card does not list the pretraining data. The model may have seen test cases.",
    )


def _caution_about_budgets(result: CheckAnalysis) -> Caution | None:
    if len({network.convergence.steps for network in result.networks}) <= 1:
        return None
    return Caution(
        title="Unequal budgets",
        text="The networks were trained for different numbers of steps. A gain may be due to the "
        "model or to its number of steps.",
    )


def _caution_about_few_patients(result: CheckAnalysis) -> Caution | None:
    gain = result.rpg_specialised
    patients = gain.smaller_class or gain.groups
    if not MIN_GROUPS <= patients < MIN_WITHOUT_CAUTION:
        return None
    return Caution(
        title="Few test patients",
        text=f"With {patients} test patients{' of the smaller class' if gain.smaller_class else ''}, "
        f"{describe_unseen_subgroup(patients)}. A loss or a gain in such a "
        "subgroup is then in no interval, and the verdict may be wrong as often. This chance is at most 2.5 % from "
        f"{MIN_WITHOUT_CAUTION} test patients on"
        + (f"; below {MIN_FOR_CLAIM}, no verdict is gain, equivalent or harm." if patients < MIN_FOR_CLAIM else "."),
    )
