"""Which stages are invalid when the output of a stage differs."""

import pytest

from vfmalign.finetuning.checks.repairs import get_readers


@pytest.mark.parametrize(
    ("stage", "readers"),
    [
        ("features_before", {"mmd", "mmd_s2", "measures", "probes", "report"}),
        ("features_after", {"mmd", "measures", "probes", "report"}),
        ("features_after_s2", {"mmd_s2", "report"}),
        ("job_pretrained", {"features_after", "mmd", "measures", "probes", "report"}),
        ("job_pretrained_s2", {"features_after_s2", "mmd_s2", "report"}),
        ("job_specialised_s2", {"report"}),
        ("mmd_s2", set()),
    ],
)
def test_a_lost_output_invalidates_what_was_computed_from_it_alone(stage, readers):
    assert set(get_readers(stage, 2)) == readers


def test_with_one_seed_nothing_of_a_second_is_invalid():
    assert set(get_readers("features_reference", 1)) == {"mmd", "measures", "probes", "report"}
