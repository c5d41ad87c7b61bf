"""Median and worst case of every network."""

from tests.prostate import SPECS

from vfmalign.core.domain.jobs import CaseScore
from vfmalign.reports.checks.case_scores import list_worse_than_naive, summarise_cases

DICE, _, VOLUME, *_ = SPECS["segmentation"].metrics


def cases(metric, *values):
    return [CaseScore(case=f"c{place}", group="g", values={metric.name: value}) for place, value in enumerate(values)]


def test_the_worst_case_follows_the_direction_of_the_metric():
    dice = summarise_cases({"pretrained": cases(DICE, 0.5, 0.1, None, 0.7)}, DICE)["pretrained"]
    assert (dice.median, dice.worst, dice.worst_case) == (0.5, 0.1, "c1")
    volume = summarise_cases({"pretrained": cases(VOLUME, 0.5, 0.1, 0.7)}, VOLUME)["pretrained"]
    assert (volume.median, volume.worst, volume.worst_case) == (0.5, 0.7, "c2")


def test_a_network_without_scores_has_no_summary():
    assert summarise_cases({"pretrained": cases(DICE, None), "naive": ()}, DICE) == {}


def test_single_cases_have_no_auroc():
    auroc = SPECS["classification"].primary_metric
    assert summarise_cases({"pretrained": cases(auroc, 0.5)}, auroc) == {}


def test_worse_than_naive_follows_the_direction_of_the_metric(make_report):
    result = make_report().result
    network = result.networks[0]
    means = network.test_means | {VOLUME.name: 2.0}
    networks = (network.model_copy(update={"test_means": means}), *result.networks[1:])

    def list_worse(**naive):
        baseline = result.naive_baseline.model_copy(update={"test_means": naive})
        report = make_report(networks=networks, naive_baseline=baseline)
        return [metric.name for metric in list_worse_than_naive(report.result)]

    assert list_worse(lesion_dice=0.9, gland_dice=0.81, false_lesion_volume=1.0) == [DICE.name, VOLUME.name]
    assert list_worse(lesion_dice=0.1, gland_dice=None, false_lesion_volume=3.0) == []
