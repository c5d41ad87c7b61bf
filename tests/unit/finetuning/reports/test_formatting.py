"""Numbers and names as reports show them."""

import pytest

from vfmalign.finetuning.reports.formatting import to_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("super_resolution", "super resolution"),
        ("segmentation:label=hippocampus,structure=anterior", "segmentation: hippocampus, anterior"),
        ("translation:from=t1w+flair,to=t2w", "translation: t1w+flair, t2w"),
    ],
)
def test_the_short_form_of_a_task_shows_its_values(name, text):
    assert to_text(name) == text
