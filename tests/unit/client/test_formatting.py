"""Numbers and names as reports show them."""

import pytest

from vfmalign.client.formatting import name_difference, to_natural_order, to_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("super_resolution", "super resolution"),
        ("segmentation:label=hippocampus,structure=anterior", "segmentation: hippocampus, anterior"),
        ("translation:from=t1w+flair,to=t2w", "translation: t1w+flair, t2w"),
        ("classification:grade=pirads,at_least=2", "classification: pirads, at least 2"),
    ],
)
def test_the_short_form_of_a_task_shows_its_values(name, text):
    assert to_text(name) == text


def test_names_sort_by_their_numbers():
    names = ["stages.10", "stages.2", "norm", "stages.2.conv10", "stages.2.conv9"]
    assert sorted(names, key=to_natural_order) == [
        "norm", "stages.2", "stages.2.conv9", "stages.2.conv10", "stages.10",
    ]  # fmt: skip


def test_a_difference_above_zero_is_better_as_its_name_reads():
    assert name_difference("the baseline", higher_is_better=True) == "your model minus the baseline"
    assert name_difference("the baseline", higher_is_better=False) == "the baseline minus your model"
