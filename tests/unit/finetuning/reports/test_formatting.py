"""Numbers and names as reports show them."""

import pytest

from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.finetuning.reports.formatting import ABSENT, format_share, to_text


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


def test_a_share_has_its_interval_in_per_cent():
    interval = Interval(lower=0.0, upper=0.273, level=0.95, method="exact")
    assert format_share(Estimate(value=0.0556, interval=interval)) == "6 % [0, 27]"
    assert format_share(Estimate()) == ABSENT
