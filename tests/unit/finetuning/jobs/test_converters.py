"""What a failure says about how the work goes on."""

from __future__ import annotations

import pytest

from vfmalign.client.messages.common import Failure
from vfmalign.finetuning.jobs.converters import with_remedy


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("UNAVAILABLE", "once the cause is fixed, continue with `vfmalign checks retry c1`"),
        ("BAD_VOLUME", "once the cause is fixed, continue with `vfmalign checks retry c1`"),
        ("BAD_OPTION", "create another check with the corrected option"),
        ("ALREADY_EXISTS", "create another check with the corrected option"),
    ],
)
def test_a_failure_that_a_retry_repeats_does_not_name_the_retry(reason: str, remedy: str) -> None:
    failure = with_remedy(Failure(reason=reason, message="it failed"), "check", "c1")
    assert failure == Failure(reason=reason, message=f"it failed; {remedy}")
